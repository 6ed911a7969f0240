"""Polls that come together are answered by one read, each as it was then, and to the job's owner alone."""

import asyncio
import json
from typing import Any

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
        asked.append(set(these.job_ids))
        await read(these, connection)

    monkeypatch.setattr(polls, "_read_these", noted)
    looks = [polls.look(Proof(client.email, None), job_id, "en") for job_id in [*own, *own, foreign]]
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
    assert (await client.get(f"/jobs/{job_id.upper()}")).json() == plain.json()
    again = await client.get(f"/jobs/{job_id}", **{"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    anybody = await client.http.get(f"/jobs/{job_id}")
    assert anybody.status_code == 401


async def test_a_refused_poll_with_and_without_a_wait_is_the_same_answer_after_one_look(
    client: Client, stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = f"/jobs/{(await stranger.submit()).json()['id']}"
    polls = application(client.http).state.parts.polls
    looked: list[str] = []
    look = polls.look

    async def counted(caller: Any, job_id: str, language: str) -> Any:
        looked.append(job_id)
        return await look(caller, job_id, language)

    monkeypatch.setattr(polls, "look", counted)
    plain, held = await client.get(foreign), await client.get(f"{foreign}?wait=0")
    assert plain.status_code == held.status_code == 404
    assert plain.json() == held.json()
    assert {**plain.headers, "x-request-id": ""} == {**held.headers, "x-request-id": ""}
    assert len(looked) == 2

    async def failing(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("the server is starting up"))

    monkeypatch.setattr(polls, "_read_these", failing)
    plain, held = await client.get(foreign), await client.get(f"{foreign}?wait=0")
    assert plain.status_code == held.status_code == 503
    assert plain.json() == held.json()
    assert len(looked) == 4


@pytest.mark.parametrize(("if_none_match", "status"), [("*", 304), ("garbage", 200), ('"another", W/"tag"', 200)])
async def test_only_what_names_the_job_as_it_is_spares_the_answer(
    client: Client, if_none_match: str, status: int
) -> None:
    job_id = (await client.submit()).json()["id"]
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}?wait=0"):
        assert (await client.get(path, **{"If-None-Match": if_none_match})).status_code == status
