"""Polls that come together are answered by one read, each as it was then, and to the job's owner alone."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from api.auth import Proof
from tests.api_client import Client, application

pytestmark = pytest.mark.anyio


async def test_polls_that_come_together_are_one_read(
    client: Client, stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [(await client.submit()).json()["id"] for _ in range(2)]
    foreign = (await stranger.submit()).json()["id"]
    polls = application(client.http).state.parts.polls
    asked: list[set[str]] = []
    read = polls._read_these

    async def noted(these: Any, connection: Any) -> None:
        asked.append({str(job_id) for job_id in these.job_ids})
        await read(these, connection)

    monkeypatch.setattr(polls, "_read_these", noted)
    looks = [polls.look(Proof(client.email, None), job_id, "en") for job_id in map(UUID, [*own, *own, foreign])]
    answers = await asyncio.gather(*looks, return_exceptions=True)
    assert asked == [{*own, foreign}]
    assert [json.loads(answer.body)["id"] for answer in answers[:4]] == [*own, *own]
    assert type(answers[4]).__name__ == "NotFound"


async def test_a_read_that_fails_is_told_to_all_who_waited_and_to_nobody_else(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = (await client.submit()).json()["id"]
    polls = application(client.http).state.parts.polls

    async def failing(*_: Any) -> None:
        raise OperationalError("", {}, Exception("the server went away"))

    with monkeypatch.context() as broken:
        broken.setattr(polls, "_read_these", failing)
        answers = await asyncio.gather(*(client.get(f"/jobs/{job_id}") for _ in range(3)))
        assert [answer.status_code for answer in answers] == [503] * 3
    assert (await client.get(f"/jobs/{job_id}")).status_code == 200


async def test_a_change_is_seen_by_the_poll_after_it(client: Client) -> None:
    job_id = (await client.submit()).json()["id"]
    before = await client.get(f"/jobs/{job_id}")
    assert (await client.http.post(f"/jobs/{job_id}/cancel", headers=client.headers)).status_code == 200
    after = await client.get(f"/jobs/{job_id}")
    assert (before.json()["status"], after.json()["status"]) == ("QUEUED", "CANCELED")
    assert before.headers["etag"] != after.headers["etag"]
    await client.http.delete(f"/jobs/{job_id}", headers=client.headers)
    assert (await client.get(f"/jobs/{job_id}")).status_code == 404


async def test_a_poll_with_and_without_a_wait_is_the_same_answer(client: Client) -> None:
    job_id = (await client.submit()).json()["id"]
    plain, held = await client.get(f"/jobs/{job_id}"), await client.get(f"/jobs/{job_id}?wait=0")
    assert plain.json() == held.json()
    assert {**plain.headers, "x-request-id": ""} == {**held.headers, "x-request-id": ""}
    again = await client.get(f"/jobs/{job_id}", **{"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    anybody = await client.http.get(f"/jobs/{job_id}")
    assert anybody.status_code == 401
