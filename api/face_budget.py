"""Azure Face's rate limit, kept on our side over all API processes, so that we never cause a 429.

One number in Redis says from when on the budget is whole again. A check that asks takes its turn there at once and is
told when it comes, so turns are given in the order of asking and nobody asks twice. A turn further away than
`LONGEST_WAIT_SECONDS` is not taken: the user is told when to come back.

A minute, wherever it begins, holds at most `BURST + SHARE * limit` calls, and a second of the paid tier (10 calls a
second) no more than its ten. What is left to the limit is for calls that bunch up on their way, and for a Redis that
forgets: then the budget begins empty, or from what this process has seen of it. With Redis away each process goes on
at a share of the pace.
"""

import math
import time

import structlog

from api.redis_guard import RedisGuard, impatient_redis
from shared.errors import FaceCheckUnavailable
from shared.settings import Settings

LONGEST_WAIT_SECONDS = 2.0  # a user is waiting
SHARE = 0.7
BURST = 3
BURST_SHARE = 0.15  # of a limit so low that BURST would be too much of it
AWAY_SHARE = 0.25  # of the pace, for each process while Redis is away: four of them are within the limit together
CLOSED_MAX_SECONDS = 600.0  # no answer of the vendor's closes the budget for longer
KEPT_MS = 86_400_000  # an idle night must not make the number look lost
KEY = "cuggu:face:budget"

# KEYS  the number: when the budget is whole again, in seconds of Redis's clock
# ARGV  seconds between two turns, seconds a burst is ahead of them, longest wait, the number as the caller saw it
#       last, the furthest it can be away, and for how long nobody may have a turn (0: a turn is asked for)
# returns  seconds until the turn, and the number; the turn is taken unless it is further away than the longest wait
_SCRIPT = """
local interval, ahead, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local seen, furthest, closed = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
-- A number that is not there is new or lost: nothing of the burst is left then.
local whole = tonumber(redis.call('GET', KEYS[1]) or now + ahead)
-- After Redis moved to another machine its clock may be another.
whole = math.min(math.max(whole, seen), now + furthest)
local wait = 0
if closed > 0 then
  whole = math.max(whole, now + closed + ahead)
else
  wait = math.max(0, whole - ahead - now)
  if wait <= longest then
    whole = math.max(whole, now) + interval
  end
end
redis.call('SET', KEYS[1], string.format('%.6f', whole), 'PX', ARGV[7])
return {string.format('%.6f', wait), string.format('%.6f', whole)}
"""

log = structlog.get_logger()


class FaceBudget:
    """Asked before every call, and told of every 429. To be used in one event loop."""

    def __init__(self, settings: Settings) -> None:
        calls_per_minute = settings.azure_face_calls_per_minute
        burst = max(1, min(BURST, int(BURST_SHARE * calls_per_minute)))
        self._interval = 60 / (SHARE * calls_per_minute)
        self._ahead = (burst - 1) * self._interval
        self._guard = RedisGuard()
        self._redis = impatient_redis(settings.redis_url)
        self._script = self._redis.register_script(_SCRIPT)
        self._seen = 0.0  # the number, as Redis said it last
        self._own_turn_at = 0.0  # time.monotonic; when this process may call without asking the others

    async def turn(self) -> float:
        """Take the next turn: the seconds to wait for it.

        Raises:
            FaceCheckUnavailable: it is further away than a user waits; no turn was taken.
        """
        wait = await self._ask("face.turn", 0.0)
        if wait is None:
            wait = max(0.0, self._own_turn_at - time.monotonic())
        if wait > LONGEST_WAIT_SECONDS:
            log.warning("face_check.postponed", after_seconds=round(wait, 1))
            raise FaceCheckUnavailable(retry_after_seconds=math.ceil(wait))
        self._own_turn_at = time.monotonic() + wait + self._interval / AWAY_SHARE
        return wait

    async def penalise(self, seconds: float) -> None:
        """The vendor answered 429: nobody has a turn before `seconds` are over."""
        seconds = min(max(seconds, self._interval), CLOSED_MAX_SECONDS)
        self._own_turn_at = max(self._own_turn_at, time.monotonic() + seconds)
        await self._ask("face.penalise", seconds)

    async def close(self) -> None:
        """Let go of the connections to Redis."""
        await self._redis.aclose()

    async def _ask(self, name: str, closed_seconds: float) -> float | None:
        """Seconds until the turn; None while Redis is away."""
        furthest = self._ahead + self._interval + LONGEST_WAIT_SECONDS + CLOSED_MAX_SECONDS
        arguments = [self._interval, self._ahead, LONGEST_WAIT_SECONDS, self._seen, furthest, closed_seconds, KEPT_MS]

        async def ask() -> list[bytes]:
            answer: list[bytes] = await self._script(keys=[KEY], args=arguments)
            return answer

        answer = await self._guard.ask(name, ask, None)
        if answer is None:
            return None
        wait, self._seen = (float(number) for number in answer)
        return wait
