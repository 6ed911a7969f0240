"""Wait until a job has changed: by notes over Redis, and without them by looking again after a while."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.change_notes import CHANNEL

# A note may be lost even while Redis is well: nobody waits longer than this without looking.
LOOK_AGAIN_SECONDS = 5.0
LOOK_AGAIN_WITHOUT_NOTES_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 0.2

log = structlog.get_logger()


class JobChanges:
    """One subscription for the whole process, however many requests wait."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)
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

    async def wait(self, job_id: UUID, seconds: float) -> None:
        """Return when the job may have changed, at the latest after `seconds`."""
        changed = asyncio.Event()
        self._waiting[job_id].add(changed)
        look_again = LOOK_AGAIN_SECONDS if self._listening else LOOK_AGAIN_WITHOUT_NOTES_SECONDS
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(seconds, look_again))
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as notes:
                    await notes.subscribe(CHANNEL)
                    self._listening = True
                    async for note in notes.listen():
                        self._wake(note["data"])
            except (RedisError, OSError) as error:
                if self._listening:
                    log.warning("changes.unheard", error=str(error))
                self._listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _wake(self, data: bytes | str) -> None:
        job_id = UUID(data.decode() if isinstance(data, bytes) else data)
        for changed in self._waiting.get(job_id, ()):
            changed.set()
