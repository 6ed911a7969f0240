"""How often one user may submit (counted when accepted) and upload (counted always), by moving windows in Redis.

With Redis away both let pass: credits still bound what can be spent.
"""

import math
import time
from dataclasses import dataclass
from uuid import UUID

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

from api.redis_guard import RedisGuard
from shared.errors import RateLimited
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of the submissions, for the `RateLimit-*` headers."""

    limit: int
    remaining: int
    reset_seconds: int


class RateLimits:
    def __init__(self, settings: Settings, redis: Redis, guard: RedisGuard) -> None:
        self._guard = guard
        storage = RedisStorage(
            f"async+{settings.redis_url}",
            implementation="redispy",
            key_prefix="cuggu:rate",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # hinted as plain options only
        )
        self._limiter = MovingWindowRateLimiter(storage)
        window = settings.rate_window_seconds
        self._submissions = RateLimitItemPerSecond(settings.submissions_per_window, window, "submissions")
        self._uploads = RateLimitItemPerSecond(settings.uploads_per_window, window, "uploads")

    async def count_upload(self, user_id: UUID) -> None:
        """Raises RateLimited for more uploads of any kind than anybody needs."""
        await self._take(self._uploads, user_id)

    async def check_submission(self, user_id: UUID) -> None:
        """Raises RateLimited if a submission would be refused now; takes nothing."""
        if not await self._guard.ask("rate", lambda: self._limiter.test(self._submissions, str(user_id)), True):
            raise await self._refusal(self._submissions, user_id)

    async def count_submission(self, user_id: UUID) -> None:
        """Raises RateLimited; of several submissions at once only as many pass as the window has room for."""
        await self._take(self._submissions, user_id)

    async def allowance(self, user_id: UUID) -> Allowance | None:
        """None while Redis does not answer."""

        async def read() -> Allowance | None:
            stats = await self._limiter.get_window_stats(self._submissions, str(user_id))
            return Allowance(self._submissions.amount, stats.remaining, _seconds_until(stats.reset_time))

        return await self._guard.ask("rate", read, None)

    async def _take(self, item: RateLimitItem, user_id: UUID) -> None:
        if not await self._guard.ask("rate", lambda: self._limiter.hit(item, str(user_id)), True):
            raise await self._refusal(item, user_id)

    async def _refusal(self, item: RateLimitItem, user_id: UUID) -> RateLimited:
        async def reset() -> float:
            return (await self._limiter.get_window_stats(item, str(user_id))).reset_time

        reset_time = await self._guard.ask("rate", reset, time.time() + item.get_expiry())
        return RateLimited(limit=item.amount, retry_after_seconds=_seconds_until(reset_time))


def _seconds_until(reset_time: float) -> int:
    return max(1, math.ceil(reset_time - time.time()))
