"""Redis makes things quick and is never waited for: after a failure it is left alone for a few seconds."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# A request makes several small calls; a Redis that hangs may cost it one time-out, not one for each.
TIMEOUT_SECONDS = 0.5
LEFT_ALONE_SECONDS = 5.0

Answer = TypeVar("Answer")
log = structlog.get_logger()


def impatient_redis(redis_url: str) -> Redis:
    """A client that tries each call once, and lets a lost connection be seen.

    Its own defaults disagree (redis 8.1, measured): `Redis(...)` repeats a call ten times, `Redis.from_url` never.
    """
    return Redis.from_url(
        redis_url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


class RedisGuard:
    """Runs calls to Redis while it answers, and gives the default at once while it does not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._closed_until = 0.0

    @property
    def answers(self) -> bool:
        """False shortly after a failure."""
        return self._clock() >= self._closed_until

    def failed(self, call: str, error: str) -> None:
        """Note that a call came back without an answer."""
        self._closed_until = self._clock() + LEFT_ALONE_SECONDS
        log.warning("redis.unreachable", call=call, error=error, left_alone_seconds=LEFT_ALONE_SECONDS)

    async def ask(self, name: str, call: Callable[[], Awaitable[Answer]], default: Answer) -> Answer:
        """The call's answer, or `default` where Redis gives none."""
        if not self.answers:
            return default
        try:
            return await call()
        except (redis.RedisError, OSError) as error:
            self.failed(name, str(error))
            return default
