"""The subscription to change notes: nothing that comes over it ends it, and its silence is noticed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from fastapi import Request
from redis import Redis

from api import changes as module
from api.changes import JobChanges
from api.redis_guard import RedisGuard, impatient_redis
from shared.change_notes import CHANNEL
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.02)


@asynccontextmanager
async def subscribed(redis_url: str) -> AsyncIterator[JobChanges]:
    async with impatient_redis(redis_url) as redis, impatient_redis(redis_url) as subscriber:
        changes = JobChanges(redis, subscriber, RedisGuard())
        await changes.start()
        try:
            await until(lambda: changes.listening)
            yield changes
        finally:
            await changes.stop()


async def nobody_leaves() -> Any:
    await asyncio.Event().wait()


REQUEST = Request({"type": "http"}, nobody_leaves)


async def is_told(changes: JobChanges, tell: Callable[[str], object]) -> bool:
    """Whether a note about a job reaches who watches it, and over the subscription that was there."""
    job_id = uuid4()
    async with changes.watching(job_id, REQUEST) as watch:
        tell(str(job_id))
        with suppress(TimeoutError):
            await asyncio.wait_for(watch.stirred.wait(), 5)
        return watch.stirred.is_set() and watch.notes_come


async def test_notes_that_are_none_are_passed_over(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = f"{CHANNEL}:{uuid4()}"  # of our own: these notes would reach every test that runs
    monkeypatch.setattr(module, "CHANNEL", channel)
    with Redis.from_url(redis_url) as redis:
        async with subscribed(redis_url) as changes:
            for note in (b"nonsense", b"\xff\xfe", b"", b"1" * 1000):
                redis.publish(channel, note)
            assert await is_told(changes, lambda job_id: redis.publish(channel, job_id))


async def test_whatever_breaks_a_new_subscription_follows(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(changes: JobChanges, data: bytes) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    channel = f"{CHANNEL}:{uuid4()}"
    with Redis.from_url(redis_url) as redis, pytest.MonkeyPatch.context() as lasting:
        lasting.setattr(module, "CHANNEL", channel)
        lasting.setattr(module, "RECONNECT_SECONDS", 0.02)
        async with subscribed(redis_url) as changes:
            monkeypatch.setattr(JobChanges, "_wake", breaking)
            redis.publish(channel, "anything")
            await until(lambda: not changes.listening)
            await until(lambda: changes.listening)
            assert await is_told(changes, lambda job_id: redis.publish(channel, job_id))


class Proxy:
    """Stands between a client and Redis, and can fall silent without closing anything."""

    def __init__(self, redis_url: str) -> None:
        self._address = urlsplit(redis_url)
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.pings = 0  # that the client has sent

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._address._replace(netloc=f":{self._address.password}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    def fall_silent(self) -> None:
        self._speaking.clear()

    def speak(self) -> None:
        self._speaking.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        for source, target in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._carry(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            try:
                while data := await source.read(4096):
                    self.pings += data.count(b"PING")
                    await self._speaking.wait()
                    target.write(data)
                    await target.drain()
            finally:
                target.close()


async def test_a_connection_that_fell_silent_is_replaced(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, subscribed(proxy.url) as changes:
        await until(lambda: proxy.pings >= 3)
        assert changes.listening, "pings keep a quiet connection"
        proxy.fall_silent()
        await until(lambda: not changes.listening)
        proxy.speak()
        await until(lambda: changes.listening)


async def test_who_watches_is_told_that_notes_stopped_coming(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, subscribed(proxy.url) as changes:
        async with changes.watching(uuid4(), REQUEST) as watch:
            assert watch.notes_come
            proxy.fall_silent()
            await asyncio.wait_for(watch.stirred.wait(), 10)
            assert not watch.notes_come
        proxy.speak()
