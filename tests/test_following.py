"""Following a job, listing, choosing, canceling, and the addresses of its pictures."""

import asyncio
import json
import time
from collections.abc import Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from api.job_view import RenderedJob
from shared.change_notes import CHANNEL, ChangeNotes
from shared.disk_storage import DiskStorage
from shared.photo_file import prepare_photo
from shared.settings import Settings
from shared.storage import StoredObject
from tests import photos as pictures
from tests.api_client import Client, application, events, finish, hanging_server, leaving, refused, serve
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_finished_job_shows_its_photos(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job)
    job = (await client.get(f"/jobs/{job['id']}")).json()
    assert (job["status"], job["progress"]["done"], job["error"]) == ("COMPLETED", 4, None)
    assert job["completed_at"] is not None
    for photo in job["photos"]:
        shown = await client.http.get(photo["url"])
        assert (shown.status_code, shown.content) == (200, pictures.one_face())
        assert "attachment" not in shown.headers.get("content-disposition", "")
    saved = await client.http.get(job["photos"][0]["url"], params={"download": "1"})
    assert saved.headers["content-disposition"].startswith('attachment; filename="cuggu-1.jpg"')
    assert "cost" not in str(job)


async def test_a_photo_is_shown_small_and_one_without_a_thumbnail_as_it_is(
    client: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    assert {photo["thumbnail_url"] for photo in job["photos"]} == {None}
    refused(await client.http.get(f"/media/{job['photos'][0]['id']}/thumbnail"), 404, "not_found")
    finish(engine, settings, job)
    small = prepare_photo(pictures.one_face(), made_by_ai=True).thumbnail
    DiskStorage(settings.data_dir / "objects").put("thumbnails/one", small, "image/webp")
    with engine.begin() as connection:
        connection.execute(text("UPDATE photos SET thumbnail_key = 'thumbnails/one' WHERE slot = 0"))
    photos = (await client.get("/jobs")).json()["jobs"][0]["photos"]
    shown = [await client.http.get(photo["thumbnail_url"]) for photo in photos[:2]]
    assert [answer.content for answer in shown] == [small, pictures.one_face()]
    assert [answer.headers["content-type"] for answer in shown] == ["image/webp", "image/jpeg"]


@pytest.mark.parametrize(("stored", "status"), [(0, "FAILED"), (2, "PARTIAL")])
async def test_a_job_that_failed_says_why_and_that_the_credit_is_back(
    client: Client, engine: Engine, settings: Settings, stored: int, status: str
) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job, stored)
    job = (await client.get(f"/jobs/{job['id']}", **{"Accept-Language": "en"})).json()
    assert (job["status"], job["progress"]["done"]) == (status, stored)
    assert (job["error"]["code"], job["error"]["refunded"]) == ("moderated", True)
    assert job["error"]["detail"].endswith("Your credit has been returned")
    assert await client.balance() == 2


async def test_an_unchanged_job_is_not_sent_again(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    first = await client.get(f"/jobs/{job['id']}")
    same = await client.get(f"/jobs/{job['id']}", **{"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    finish(engine, settings, job)
    changed = await client.get(f"/jobs/{job['id']}", **{"If-None-Match": first.headers["etag"]})
    assert changed.json()["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("known", "same"),
    [
        ("{tag}", True),
        ("W/{tag}", True),
        ('"other", {tag}', True),
        ('W/"other" ,W/{tag}', True),
        ("*", True),
        ('"other"', False),
        ('W/"other"', False),
    ],
)
async def test_a_tag_is_known_however_proxies_write_it(client: Client, known: str, same: bool) -> None:
    path = f"/jobs/{(await client.submit()).json()['id']}"
    tag = (await client.get(path)).headers["etag"]
    answer = await client.get(path, **{"If-None-Match": known.format(tag=tag)})
    assert (answer.status_code, answer.headers["etag"]) == (304 if same else 200, tag)


@pytest.mark.parametrize("known", [None, "W/{tag}", "*"])
async def test_an_answer_is_held_while_nothing_changes(client: Client, known: str | None) -> None:
    path = f"/jobs/{(await client.submit()).json()['id']}"
    tag = (await client.get(path)).headers["etag"]
    began = time.monotonic()
    answer = await client.get(f"{path}?wait=0.4", **{"If-None-Match": known.format(tag=tag)} if known else {})
    assert time.monotonic() - began >= 0.4
    assert answer.status_code == (304 if known else 200)


async def test_what_is_not_known_or_has_ended_is_not_waited_for(client: Client) -> None:
    path = f"/jobs/{(await client.submit()).json()['id']}"
    async with asyncio.timeout(20):
        assert (await client.get(f"{path}?wait=60", **{"If-None-Match": '"other"'})).status_code == 200
        await client.http.post(f"{path}/cancel", headers=client.headers)
        assert (await client.get(f"{path}?wait=60")).json()["status"] == "CANCELED"


async def held(client: Client, job: dict[str, Any], seconds: int = 60) -> "asyncio.Task[httpx.Response]":
    """A request that waits for a change of the job, once it does."""
    with counted_looks(client) as looks:
        waiting = asyncio.create_task(client.get(f"/jobs/{job['id']}?wait={seconds}"))
        await until(lambda: looks)
    return waiting


@contextmanager
def counted_looks(client: Client) -> Iterator[list[str]]:
    """The jobs that a poll has looked at by now; what it found does not make it wait before it waits for a change."""
    polls, looks = application(client.http).state.parts.polls, list[str]()
    look = polls.look

    async def noted(caller: Any, job_id: str, language: str) -> RenderedJob:
        seen: RenderedJob = await look(caller, job_id, language)
        looks.append(job_id)
        return seen

    polls.look = noted
    try:
        yield looks
    finally:
        del polls.look


async def test_a_note_ends_the_wait_at_once(client: Client, engine: Engine, settings: Settings) -> None:
    changes = application(client.http).state.parts.changes
    await until(lambda: changes.listening)
    job = (await client.submit()).json()
    waiting = await held(client, job)
    finish(engine, settings, job)
    began = time.monotonic()
    ChangeNotes(settings.redis_url).tell(UUID(job["id"]))
    assert (await waiting).json()["status"] == "COMPLETED"
    assert time.monotonic() - began < 1


async def test_without_redis_a_change_is_noticed_by_looking(engine: Engine, settings: Settings) -> None:
    alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with AsyncExitStack() as stack:
        client = Client(await serve(stack, alone), alone)
        job = (await client.submit()).json()
        waiting = await held(client, job)
        finish(engine, settings, job)
        began = time.monotonic()
        assert (await waiting).json()["status"] == "COMPLETED"
        assert time.monotonic() - began < 3


async def test_a_change_between_the_look_and_the_wait_is_not_missed(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = application(client.http).state.parts.changes
    await until(lambda: changes.listening)
    job = (await client.submit()).json()
    looks: list[str] = []

    polls = application(client.http).state.parts.polls
    read = polls.look

    async def look(*of: Any) -> RenderedJob:
        seen: RenderedJob = await read(*of)
        looks.append(json.loads(seen.body)["status"])
        if len(looks) == 1:
            finish(engine, settings, job)
            changes._wake(job["id"])
        return seen

    monkeypatch.setattr(polls, "look", look)
    began = time.monotonic()
    answer = await client.get(f"/jobs/{job['id']}?wait=60")
    assert time.monotonic() - began < 3
    assert (answer.json()["status"], looks) == ("COMPLETED", ["QUEUED", "COMPLETED"])


async def test_a_client_that_left_is_not_waited_for(client: Client) -> None:
    changes = application(client.http).state.parts.changes
    await until(lambda: changes.listening)
    job = (await client.submit()).json()
    left = asyncio.Event()
    request = client.http.build_request("GET", f"/jobs/{job['id']}?wait=60", headers=client.headers)
    with counted_looks(client) as looks:
        waiting = asyncio.create_task(leaving(client.http, request, left))
        await until(lambda: looks)
    assert not waiting.done()
    assert list(changes._watches) == [UUID(job["id"])]
    left.set()
    async with asyncio.timeout(1):
        await waiting
    assert changes._watches == {}


async def test_history_is_paged_newest_first(client: Client, stranger: Client, engine: Engine) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
    submitted = [(await client.submit()).json()["id"] for _ in range(5)]
    await stranger.submit()
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await client.get(f"/jobs?limit=2{cursor}")).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert page["remaining_credits"] == 5
    assert seen == submitted[::-1]
    refused(await client.get("/jobs?cursor=nonsense"), 400, "invalid_request")
    refused(await client.get("/jobs?limit=0"), 400, "invalid_request")


async def test_only_ones_own_stored_photo_can_be_chosen(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    path, photo_id = f"/jobs/{job['id']}/selection", job["photos"][2]["id"]
    early = await client.http.put(path, json={"photo_id": photo_id}, headers=client.headers)
    refused(early, 409, "photo_not_stored")
    finish(engine, settings, job)
    chosen = await client.http.put(path, json={"photo_id": photo_id}, headers=client.headers)
    assert chosen.json()["selected_photo_id"] == photo_id
    refused(await client.http.put(path, json={"photo_id": str(uuid4())}, headers=client.headers), 404, "not_found")
    refused(await client.http.put(path, json={"photo_id": photo_id}, headers=stranger.headers), 404, "not_found")
    refused(await client.http.put(path, json={}, headers=client.headers), 400, "invalid_request")


async def test_a_cancellation_is_logged_and_told_to_whoever_waits(
    client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    job = (await client.submit()).json()
    waiting = await held(client, job)
    with Redis.from_url(settings.redis_url) as redis, redis.pubsub() as notes:
        notes.subscribe(CHANNEL)
        assert notes.get_message(timeout=5) is not None
        began = time.monotonic()
        await client.http.post(f"/jobs/{job['id']}/cancel", headers=client.headers)
        assert (await waiting).json()["status"] == "CANCELED"
        assert time.monotonic() - began < 2
        # Other processes' clients wait, too.
        await until(lambda: (notes.get_message(timeout=0.05) or {}).get("data") == job["id"].encode(), 5)
    (settled,) = (entry for entry in events(caplog) if entry["event"] == "job.canceled")
    assert (settled["job_id"], settled["refunded"], settled["level"]) == (job["id"], True, "info")


async def test_a_hanging_redis_does_not_hold_a_cancellation(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        alone = settings.model_copy(update={"redis_url": f"redis://{stack.enter_context(hanging_server())}/0"})
        client = Client(await serve(stack, alone), alone)
        job = (await client.submit()).json()
        began = time.monotonic()
        answer = await client.http.post(f"/jobs/{job['id']}/cancel", headers=client.headers)
        assert time.monotonic() - began < 2
    assert answer.json()["status"] == "CANCELED"


async def test_canceling_gives_the_credit_back_once(client: Client, stranger: Client) -> None:
    job = (await client.submit()).json()
    path = f"/jobs/{job['id']}/cancel"
    refused(await client.http.post(path, headers=stranger.headers), 404, "not_found")
    canceled = (await client.http.post(path, headers=client.headers)).json()
    assert (canceled["status"], canceled["error"]["code"]) == ("CANCELED", "canceled")
    refused(await client.http.post(path, headers=client.headers), 409, "job_ended")
    assert await client.balance() == 2


async def test_a_strangers_job_looks_like_none(client: Client, stranger: Client) -> None:
    job = (await client.submit()).json()
    refused(await stranger.get(f"/jobs/{job['id']}"), 404, "not_found")
    refused(await stranger.get(f"/jobs/{uuid4()}"), 404, "not_found")
    assert (await stranger.get("/jobs")).json()["jobs"] == []
    refused(await stranger.get("/jobs/not-an-id"), 400, "invalid_request")
    refused(await client.http.get(f"/media/{uuid4()}"), 404, "not_found")
    refused(await client.http.get(f"/media/portraits/{uuid4()}"), 404, "not_found")


async def test_no_connection_to_the_database_is_held_while_anybody_waits_for_something_else(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job)
    app = application(client.http)
    pool = app.state.parts.sessions.kw["bind"].pool
    held: list[int] = []

    def reading(storage: DiskStorage, key: str) -> StoredObject:
        held.append(pool.checkedout())
        return read(storage, key)

    async def sending(message: MutableMapping[str, Any]) -> None:
        held.append(pool.checkedout())
        assert message.get("status", 200) == 200

    read = DiskStorage.get
    monkeypatch.setattr(DiskStorage, "get", reading)
    for path in (job["portrait_url"], f"/media/{job['photos'][0]['id']}", "/me", "/me/credits", "/jobs"):
        request = client.http.build_request("GET", path, headers=client.headers)
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": ("127.0.0.1", 8000),
        }
        await app(scope, blocked_receive, sending)
    assert held == [0] * (2 + 2 * 5)


async def blocked_receive() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError
