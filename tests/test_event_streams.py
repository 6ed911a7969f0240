"""Following a job by its events: all of them, in order, as they happen, and again from where a client was."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api import live_events as module
from shared.change_notes import ChangeNotes
from shared.settings import Settings
from tests.api_client import Client, application, finish, refused, serve
from tests.event_reader import Event, following
from tests.stack import RunningStack
from tests.waiting import until

pytestmark = pytest.mark.anyio

WHOLE = ["job.accepted", *["photo.started", "photo.stored"] * 4, "job.completed"]


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def events_of(job: dict[str, str]) -> str:
    return f"/jobs/{job['id']}/events"


async def test_a_stream_tells_everything_in_order_and_ends_with_the_job(
    client: Client, engine: Engine, settings: Settings
) -> None:
    await until(lambda: application(client.http).state.parts.changes.listening)
    job = (await client.submit()).json()
    async with following(client, events_of(job), **{"Accept-Language": "en"}) as stream:
        (accepted,) = await stream.until(1)
        assert accepted.data["photos"] == job["photos"]
        assert (accepted.data["status"], accepted.data["progress"]) == ("QUEUED", {"done": 0, "total": 4})
        finish(engine, settings, job)
        began = time.monotonic()
        ChangeNotes(settings.redis_url).tell(UUID(job["id"]))
        events = await stream.to_the_end()
        assert time.monotonic() - began < 1
        await until(lambda: not application(client.http).state.parts.live._jobs)  # although this client stays
    assert names(events) == WHOLE
    assert [event.id for event in events] == sorted({event.id for event in events})
    now = (await client.get(f"/jobs/{job['id']}", **{"Accept-Language": "en"})).json()
    assert events[-1].data == {**now, "remaining_credits": 1}
    stored = [event.data for event in events if event.name == "photo.stored"]
    assert [data["photo"] for data in stored] == now["photos"]
    assert [data["progress"]["done"] for data in stored] == [1, 2, 3, 4]
    assert {data["status"] for data in stored} == {"PROCESSING"}
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["x-accel-buffering"] == "no"
    assert "no-cache" in stream.headers["cache-control"]
    assert "content-length" not in stream.headers
    assert stream.blocks[0].startswith("retry: ")


@pytest.mark.parametrize("by", ["header", "query"])
async def test_who_comes_back_goes_on_where_it_was(client: Client, engine: Engine, settings: Settings, by: str) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job, 2)
    async with following(client, events_of(job)) as stream:
        events = await stream.to_the_end()
    assert names(events)[-1] == "job.partial"
    assert events[-1].data["error"]["refunded"]
    for index, event in enumerate(events[:-1]):
        path = events_of(job) + (f"?last_event_id={event.id}" if by == "query" else "")
        headers = {"Last-Event-ID": str(event.id)} if by == "header" else {}
        async with following(client, path, **headers) as stream:
            assert await stream.to_the_end() == events[index + 1 :]
    # After the end there is nothing to come back for, and a browser must be told so.
    after = await client.get(events_of(job), **{"Last-Event-ID": str(events[-1].id)})
    assert (after.status_code, after.content) == (204, b"")


async def test_an_id_that_never_was_hides_nothing(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    async with following(client, events_of(job), **{"Last-Event-ID": str(2**62)}) as stream:
        await until(lambda: stream.status)
        finish(engine, settings, job)
        ChangeNotes(settings.redis_url).tell(UUID(job["id"]))
        assert names(await stream.to_the_end()) == WHOLE[1:]
    refused(await client.get(f"{events_of(job)}?last_event_id=-1"), 400, "invalid_request")
    refused(await client.get(events_of(job), **{"Last-Event-ID": "nonsense"}), 400, "invalid_request")


async def test_a_strangers_stream_looks_like_none(client: Client, stranger: Client, http: httpx.AsyncClient) -> None:
    job = (await client.submit()).json()
    refused(await stranger.get(events_of(job)), 404, "not_found")
    refused(await stranger.get(f"/jobs/{uuid4()}/events"), 404, "not_found")
    refused(await http.get(events_of(job)), 401, "unauthorized")


async def test_a_cancellation_ends_the_stream_of_everybody_in_their_language(client: Client) -> None:
    job = (await client.submit()).json()
    async with (
        following(client, events_of(job), **{"Accept-Language": "ko"}) as korean,
        following(client, events_of(job), **{"Accept-Language": "en"}) as english,
    ):
        await korean.until(1)
        await english.until(1)
        await client.http.post(f"/jobs/{job['id']}/cancel", headers=client.headers)
        told = [(await stream.to_the_end())[-1] for stream in (korean, english)]
    assert {event.name for event in told} == {"job.canceled"}
    assert told[0].data["error"]["detail"].startswith("취소한 작업입니다")
    assert told[1].data["error"]["detail"].startswith("The job was canceled")
    assert {event.data["remaining_credits"] for event in told} == {2}


async def test_without_redis_the_events_come_by_looking(engine: Engine, settings: Settings) -> None:
    alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with AsyncExitStack() as stack:
        client = Client(await serve(stack, alone), alone)
        job = (await client.submit()).json()
        async with following(client, events_of(job)) as stream:
            await stream.until(1)
            finish(engine, settings, job)
            assert names(await stream.to_the_end(6)) == WHOLE


async def test_a_lost_note_costs_seconds_and_no_event(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.3)
    await until(lambda: application(client.http).state.parts.changes.listening)
    job = (await client.submit()).json()
    async with following(client, events_of(job)) as stream:
        await stream.until(1)
        finish(engine, settings, job)  # and nobody is told
        assert names(await stream.to_the_end()) == WHOLE


async def test_what_changed_together_is_read_together(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
    reads: list[int] = []
    read = module.read_new_events

    async def reading(connection: AsyncConnection, after: dict[UUID, int]) -> object:
        reads.append(len(after))
        return await read(connection, after)

    monkeypatch.setattr(module, "read_new_events", reading)
    jobs = [(await client.submit()).json() for _ in range(5)]
    live = application(client.http).state.parts.live
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(following(client, events_of(job))) for job in jobs for _ in range(3)]
        for stream in streams:
            await stream.until(1)
        reads.clear()
        for job in jobs:
            finish(engine, settings, job)
        for job in jobs:
            live._hear(UUID(job["id"]))
        for stream in streams:
            assert names(await stream.to_the_end()) == WHOLE
    assert reads == [5], "one statement for fifteen clients of five jobs"


async def test_a_quiet_stream_is_pinged_and_a_client_that_left_is_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await client.submit()).json()
    live = application(client.http).state.parts.live
    async with following(client, events_of(job)) as stream, following(client, events_of(job)) as other:
        await stream.until(1)
        await other.until(1)
        assert not [block for block in stream.blocks if block.startswith(":")]
        for follower in live._jobs[UUID(job["id"])].followers:
            follower.wake()
        await until(lambda: any(block.startswith(":") for block in stream.blocks))
        stream.over.set()
        await until(lambda: len(live._jobs[UUID(job["id"])].followers) == 1)
        assert not other.ended
    assert live._jobs == {}
    assert not any(live._rounds)


async def test_a_database_that_was_away_costs_no_event(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    monkeypatch.setattr(module, "DATABASE_AGAIN_SECONDS", 0.05)
    job = (await client.submit()).json()
    read, failures = module.read_new_events, [OperationalError("", {}, Exception("away"))] * 2

    async def failing(connection: AsyncConnection, after: dict[UUID, int]) -> object:
        if failures:
            raise failures.pop()
        return await read(connection, after)

    async with following(client, events_of(job)) as stream:
        await stream.until(1)
        monkeypatch.setattr(module, "read_new_events", failing)
        finish(engine, settings, job)
        ChangeNotes(settings.redis_url).tell(UUID(job["id"]))
        assert names(await stream.to_the_end()) == WHOLE
    assert not failures


async def test_who_comes_while_others_are_looked_for_misses_nothing(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await client.submit()).json()
    live = application(client.http).state.parts.live
    followed = UUID(job["id"])
    read, has_read, go_on = module.read_new_events, asyncio.Event(), asyncio.Event()

    async def held_once(connection: AsyncConnection, after: dict[UUID, int]) -> object:
        events = await read(connection, after)
        monkeypatch.setattr(module, "read_new_events", read)
        has_read.set()
        await go_on.wait()
        return events

    async with following(client, events_of(job)) as first:
        await first.until(1)
        finish(engine, settings, job)
        monkeypatch.setattr(module, "read_new_events", held_once)
        live._hear(followed)
        await has_read.wait()
        async with following(client, events_of(job)) as second:
            await until(lambda: len(live._jobs[followed].followers) == 2)
            go_on.set()
            assert names(await first.to_the_end()) == WHOLE
            assert names(await second.to_the_end()) == WHOLE


async def test_a_job_that_cannot_be_read_holds_up_no_other(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    monkeypatch.setattr(module, "DATABASE_AGAIN_SECONDS", 0.05)
    broken, sound = [(await client.submit()).json() for _ in range(2)]
    read, failures = module.read_new_events, 0

    async def failing(connection: AsyncConnection, after: dict[UUID, int]) -> object:
        nonlocal failures
        if UUID(broken["id"]) in after:
            failures += 1
            raise OperationalError("", {}, Exception("this row cannot be read"))
        return await read(connection, after)

    async with following(client, events_of(broken)) as held_up, following(client, events_of(sound)) as stream:
        await held_up.until(1)
        await stream.until(1)
        monkeypatch.setattr(module, "read_new_events", failing)
        notes = ChangeNotes(settings.redis_url)
        notes.tell(UUID(broken["id"]))
        await until(lambda: failures > 1)
        finish(engine, settings, sound)
        notes.tell(UUID(sound["id"]))
        assert names(await stream.to_the_end()) == WHOLE
        assert not held_up.ended


async def test_an_api_that_stops_lets_its_followers_go_at_once(
    running_stack: Callable[..., RunningStack], settings: Settings
) -> None:
    stack = running_stack(processes=("api",))
    async with httpx.AsyncClient(base_url=stack.api_url) as http:
        client = Client(http, settings)
        job = (await client.submit()).json()
        async with http.stream("GET", events_of(job), headers=client.headers) as answer:
            lines = answer.aiter_lines()
            while (await anext(lines)) != "event: job.accepted":
                pass
            began = time.monotonic()
            stopping = asyncio.create_task(asyncio.to_thread(stack.stop, "api"))
            async for _ in lines:
                pass
            assert time.monotonic() - began < 2
            await stopping
            assert time.monotonic() - began < 5
    assert "Cancel" not in stack.logs("api")
