"""Wait until a job has changed: by notes over Redis, and without them by looking again after a while."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from api.redis_guard import RedisGuard
from shared.change_notes import CHANNEL

# A note may be lost even while Redis is well: nobody waits longer than this without looking.
LOOK_AGAIN_SECONDS = 5.0
LOOK_AGAIN_WITHOUT_NOTES_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
# A subscription on which nothing came for this long is pinged, and given up when that brings nothing either: the
# other side of a connection may be gone without a word.
SILENCE_SECONDS = 2.0
CANCEL_AGAIN_SECONDS = 0.2

log = structlog.get_logger()


class Watch:
    """One request's wait for changes of one job."""

    def __init__(self) -> None:
        self.stirred = asyncio.Event()
        self.client_left = False
        self.notes_come = False

    async def next(self, seconds: float) -> None:
        """Return when the job may have changed since the last call, or the client has left; bounded by `seconds`."""
        look_again = LOOK_AGAIN_SECONDS if self.notes_come else LOOK_AGAIN_WITHOUT_NOTES_SECONDS
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stirred.wait(), min(seconds, look_again))
        self.stirred.clear()


class JobChanges:
    """One subscription for the whole process, however many requests wait; and the notes that this process sends."""

    def __init__(self, redis: Redis, subscriber: Redis, guard: RedisGuard) -> None:
        """`subscriber` is a client of its own that repeats nothing by itself: a lost connection must be seen."""
        self._redis = redis
        self._subscriber = subscriber
        self._guard = guard
        self._watches: dict[UUID, set[Watch]] = defaultdict(set)
        self._hearers: list[Callable[[UUID | None], None]] = []
        self._listening = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """End the subscription; returns when it has ended."""
        while self._task is not None and not self._task.done():
            # Again and again: the Redis client swallows a cancellation that meets it while it connects (seen).
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CANCEL_AGAIN_SECONDS)

    @property
    def listening(self) -> bool:
        """Whether notes reach this process, as far as it can know within twice `SILENCE_SECONDS`."""
        return self._listening

    def hand_on(self, hearer: Callable[[UUID | None], None]) -> None:
        """Have a function called with every job that has changed; with None when notes may have been missed."""
        self._hearers.append(hearer)

    async def tell(self, job_id: UUID) -> None:
        """Say that this job has changed, here and to the other processes; call it after the commit."""
        self._stir(job_id)
        await self._guard.ask("change.tell", lambda: self._redis.publish(CHANNEL, str(job_id)), None)

    @asynccontextmanager
    async def watching(self, job_id: UUID, request: Request) -> AsyncIterator[Watch]:
        """Begin before the first look at the job: what changes after that look is not missed.

        The request's body must have been read, for what comes after it is taken for news of the client.
        """
        watch = Watch()
        watch.notes_come = self._listening
        self._watches[job_id].add(watch)
        leaving = asyncio.create_task(_notice_leaving(request, watch))
        try:
            yield watch
        finally:
            leaving.cancel()
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._subscriber.pubsub() as subscription:
                    await self._hear(subscription)
            except (RedisError, OSError) as error:
                if self._listening:
                    log.warning("changes.unheard", error=str(error))
            except Exception as error:
                log.error("changes.unheard", exc_info=error)
            self._set_listening(False)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _hear(self, subscription: PubSub) -> None:
        """Hand on notes for as long as the connection lives. Raises RedisError or OSError when it does not."""
        await subscription.subscribe(CHANNEL)
        pinged = False
        while True:
            note = await subscription.get_message(timeout=SILENCE_SECONDS)
            if note is None and pinged:
                raise TimeoutError(f"no word within {2 * SILENCE_SECONDS:g} s, not even to a ping")
            pinged = note is None
            if note is None:
                await subscription.ping()
            elif note["type"] == "subscribe":
                self._set_listening(True)
            elif note["type"] == "message":
                self._wake(note["data"])

    def _set_listening(self, listening: bool) -> None:
        turned, self._listening = listening != self._listening, listening
        for watches in self._watches.values():
            for watch in watches:
                watch.notes_come = listening
                watch.stirred.set()  # notes may have been missed in between
        for hearer in self._hearers if turned else ():
            hearer(None)

    def _wake(self, data: bytes | str) -> None:
        try:
            job_id = UUID(data.decode() if isinstance(data, bytes) else data)
        except ValueError:
            log.warning("note.malformed", size_bytes=len(data))
            return
        self._stir(job_id)

    def _stir(self, job_id: UUID) -> None:
        for watch in self._watches.get(job_id, ()):
            watch.stirred.set()
        for hearer in self._hearers:
            hearer(job_id)


async def _notice_leaving(request: Request, watch: Watch) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    watch.client_left = True
    watch.stirred.set()
