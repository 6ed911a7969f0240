"""Face verdicts remembered by the picture's hash, so that trying another style with one portrait asks once."""

import time

from redis.asyncio import Redis

from api.faces import FaceChecker, FaceVerdict
from api.redis_guard import RedisGuard
from shared.metrics import FACE_CHECKS
from shared.tracing import span


class RememberedFaces:
    """A FaceChecker in front of another one. Redis away: every picture is looked at."""

    def __init__(self, checker: FaceChecker, redis: Redis, guard: RedisGuard, seconds: int) -> None:
        self._checker = checker
        self._redis = redis
        self._guard = guard
        self._seconds = seconds

    async def verdict(self, sha256: str, jpeg: bytes, width: int, height: int) -> FaceVerdict:
        """As `FaceChecker.check`, for a picture of this hash. Raises FaceCheckUnavailable, which is not remembered."""
        key = f"cuggu:face:{sha256}"

        async def recall() -> str | bytes | None:
            return await self._redis.get(key)

        async def remember() -> None:
            await self._redis.set(key, verdict.value, ex=self._seconds)

        known = await self._guard.ask("face.recall", recall, None)
        if known is not None:
            return FaceVerdict(known.decode() if isinstance(known, bytes) else known)
        verdict = await self._look(jpeg, width, height)
        await self._guard.ask("face.remember", remember, None)
        return verdict

    async def _look(self, jpeg: bytes, width: int, height: int) -> FaceVerdict:
        outcome, began = "unavailable", time.perf_counter()
        try:
            with span("face.check", "client"):
                verdict = await self._checker.check(jpeg, width, height)
            outcome = verdict.value.lower()
            return verdict
        finally:
            FACE_CHECKS.labels(outcome).observe(time.perf_counter() - began)
