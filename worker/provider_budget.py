"""The provider's rate limits, kept on our side: one bucket in Redis for all workers, one for each kind of request.

The limits are Replicate's: 600 creates and 3000 other requests a minute, 6 creates a minute one at a time for an
account with little credit (Replicate docs: rate limits; the second from its users' reports). Asking never blocks and
never raises. What is decided, and why no 429 follows:

- A bucket is small and refills a little slower than the vendor allows, so that any minute, wherever it begins, holds
  fewer requests than the limit, and requests that bunch up on their way still fit in.
- Never more is assumed than the vendor's headers leave, less the requests whose answers are still to come.
- What was not heard from for a while is in doubt: creates then go one at a time until an answer came.
- A bucket that Redis lost starts empty where a worker remembers it, and with a few requests where none does.
- Who came first is served first, but users with several jobs let others go between them. A request keeps its turn for
  as long as it waits, and is told when to ask again, a little too early; a token is kept for it then, but no longer
  than the bucket needs to fill.
- With Redis away each process goes on alone, at a tenth of the pace and one request at a time.
"""

import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Self
from uuid import UUID, uuid4

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.jobs import PHOTOS_PER_JOB
from shared.metrics import PROVIDER_THROTTLED
from shared.settings import Settings
from worker.predictor import RequestKind

REDIS_TIMEOUT_SECONDS = 0.5
LEFT_ALONE_SECONDS = 5.0  # after a failure of Redis
AWAY_SHARE = 0.1  # of the pace, for each process while Redis is away: ten of them are within the limit together

# Of a minute's limit. The burst holds what comes in a little more than a second, because the sweep brings those who
# wait once a second.
RATE_SHARE = 0.965
BURST_SHARE = 0.0185
FIRST_LEVEL_SHARE = 0.01
FIRST_LEVEL_MAX = PHOTOS_PER_JOB

WINDOW_SECONDS = 60.0  # of the vendor's limits; no answer of it closes a bucket for longer
TRUST_SECONDS = 600.0  # what the vendor last said holds for this long
DOUBTED_ANSWERS = 2  # creates that go one at a time when in doubt; a single one, if its answer says what is left
REDUCED_SECONDS = 300.0  # after this long without a sign of it, a reduced rate is doubted
UNANSWERED_SECONDS = 10.0  # longer than any call: then no answer will come
ANSWER_SECONDS = 0.5  # after which it is worth asking whether an answer has come
TURN_SHARE = 0.9  # of the time that a token takes to come, so that more ask than there are tokens
LINE_SECONDS = 60.0  # nobody is told to wait longer for those in front, because they may not come,
ASKING_PER_SECOND = 50  # unless so many wait that their asking alone would keep a worker busy
KEPT_SECONDS = 3.0  # how long a token waits for whoever was told to come; the sweep looks once a second
GONE_SECONDS = 30.0  # a turn is given up by who comes so much later than told
WAIT_MIN_SECONDS = 0.05
LINE_TTL_SECONDS = 600
BUCKET_TTL_SECONDS = 86_400  # an idle night must not make a bucket look lost

_SCRIPT = files("worker").joinpath("provider_budget.lua").read_text()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How a bucket is filled: `rate` tokens a second, up to `burst`. No minute holds more than `burst + 60 * rate`."""

    rate: float
    burst: int

    @classmethod
    def below(cls, per_minute: float, burst_max: int | None = None) -> Self:
        """The pace that stays below a limit in every window of a minute, also when a second's requests bunch up."""
        burst = max(1, math.ceil(BURST_SHARE * per_minute))
        burst = min(burst, burst_max or burst)
        rate = RATE_SHARE * per_minute / WINDOW_SECONDS
        if burst > 1:  # below, what bunches up is one request
            rate = min(rate, (per_minute - burst) / (WINDOW_SECONDS + 1))
        return cls(rate, burst)


class ProviderBudget:
    """Asked before every call to the provider, and told of every answer. Thread-safe; a thread does one call at a time.

    Args:
        settings: the limits, and where Redis is. Opens no connection.
    """

    def __init__(self, settings: Settings) -> None:
        self._paces: dict[RequestKind, Pace] = {
            "create": Pace.below(settings.replicate_creates_per_minute),
            "other": Pace.below(settings.replicate_reads_per_minute),
        }
        self._first_levels = {
            "create": min(FIRST_LEVEL_MAX, int(FIRST_LEVEL_SHARE * settings.replicate_creates_per_minute)),
            "other": min(FIRST_LEVEL_MAX, int(FIRST_LEVEL_SHARE * settings.replicate_reads_per_minute)),
        }
        self._seen: dict[RequestKind, dict[str, Any]] = {}
        self._own: dict[RequestKind, _OwnAllowance] = {kind: _OwnAllowance() for kind in self._paces}
        self._process = uuid4().hex
        self._left_alone_until = 0.0
        # One repetition, for a connection that Redis closed while it was idle.
        client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),
        )
        self._script = client.register_script(_SCRIPT)

    def take(self, kind: RequestKind, request_id: UUID | str, user_id: UUID | None = None) -> float:
        """0.0: granted, for the next request of this thread. Otherwise the seconds after which to ask again.

        Args:
            request_id: the same when it asks again, as a photo's id is.
            user_id: whose turn it is. Requests of nobody in particular share one line.
        """
        request = {
            "request": str(request_id),
            "user": str(user_id),
            "trust_seconds": TRUST_SECONDS,
            "unanswered_seconds": UNANSWERED_SECONDS,
            "answer_seconds": ANSWER_SECONDS,
            "job_requests": PHOTOS_PER_JOB,
            "turn_share": TURN_SHARE,
            "line_seconds": LINE_SECONDS,
            "asking_per_second": ASKING_PER_SECOND,
            "kept_seconds": KEPT_SECONDS,
            "gone_seconds": GONE_SECONDS,
            "wait_min_seconds": WAIT_MIN_SECONDS,
        }
        reply = self._ask("take", kind, request)
        if reply is not None:
            return float(reply["wait"])
        reduced = self._seen.get(kind, {}).get("reduced")
        rate = reduced["rate"] if reduced else self._paces[kind].rate
        return self._own[kind].take(rate * AWAY_SHARE)

    def give_back(self, kind: RequestKind) -> None:
        """What this thread was granted, it did not use."""
        self._ask("give_back", kind, {})

    def note_limits(self, kind: RequestKind, headers: Mapping[str, str]) -> None:
        """The provider answered this thread's request; `headers` holds its `ratelimit-*` headers, if it sent any.

        Requests that nobody asked for, as the second page of a list, are charged here.
        """
        news: dict[str, Any] = {"reduced_seconds": REDUCED_SECONDS}
        remaining, reset = (_number(headers.get(f"ratelimit-{name}")) for name in ("remaining", "reset"))
        if remaining is not None:
            # Without the header: until the vendor's own pace gives one more.
            reset_seconds = min(1 / self._paces[kind].rate if reset is None else reset, WINDOW_SECONDS)
            news |= {"left": int(remaining), "reset_seconds": reset_seconds}
            if remaining < 1:
                self._own[kind].close(reset_seconds + 1)
        self._ask("answered", kind, news)

    def penalise(self, kind: RequestKind, retry_after_seconds: float, reduced: tuple[float, int] | None = None) -> None:
        """The provider answered 429: nothing goes out before `retry_after_seconds` are over.

        Args:
            reduced: requests per minute and burst, where the provider said that it had lowered the limit. The bucket
                keeps to that until the headers show that more is left, or for `REDUCED_SECONDS` without news of it.
        """
        retry_after_seconds = min(retry_after_seconds, WINDOW_SECONDS)
        news: dict[str, Any] = {"after_seconds": retry_after_seconds, "reduced_seconds": REDUCED_SECONDS}
        if reduced is not None:
            per_minute, burst = reduced
            news["reduced"] = asdict(Pace.below(per_minute, burst)) | {"stated_burst": burst}
        self._own[kind].close(retry_after_seconds)
        self._ask("throttled", kind, news)
        PROVIDER_THROTTLED.labels(kind).inc()
        log.warning("budget.throttled", kind=kind, after_seconds=retry_after_seconds, reduced_to=reduced)

    def _ask(self, operation: str, kind: RequestKind, request: dict[str, Any]) -> dict[str, Any] | None:
        """The script's reply; None while Redis is away."""
        if time.monotonic() < self._left_alone_until:
            return None
        # The hash tag keeps the keys on one node of a cluster.
        keys = [f"cuggu:budget:{{{kind}}}:{name}" for name in ("bucket", "unanswered", "told", "turns", "users")]
        request = {
            "doubt": DOUBTED_ANSWERS if kind == "create" else 0,
            "pace": asdict(self._paces[kind]),
            "first_level": self._first_levels[kind],
            "closed_max_seconds": WINDOW_SECONDS + 1,
            "bucket_ttl_seconds": BUCKET_TTL_SECONDS,
            "line_ttl_seconds": LINE_TTL_SECONDS,
            **request,
            "op": operation,
            "caller": f"{self._process}:{threading.get_ident()}",
        }
        if kind in self._seen:
            request["state"] = self._seen[kind]
        try:
            reply: dict[str, Any] = json.loads(self._script(keys=keys, args=[json.dumps(request)]))
        except (redis.RedisError, OSError) as error:
            self._left_alone_until = time.monotonic() + LEFT_ALONE_SECONDS
            log.warning("budget.redis_away", error=str(error), left_alone_seconds=LEFT_ALONE_SECONDS)
            return None
        self._seen[kind] = reply["state"]
        self._own[kind].close(reply["closed_seconds"])
        return reply


class _OwnAllowance:
    """What one process allows itself while nobody can ask the others: one request at a time, at a slow pace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0  # time.monotonic

    def take(self, rate: float) -> float:
        """0.0, or the seconds until the next request may go."""
        with self._lock:
            now = time.monotonic()
            if now < self._free_at:
                return self._free_at - now
            self._free_at = now + 1 / rate
            return 0.0

    def close(self, seconds: float) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)


def _number(text: str | None) -> float | None:
    try:
        return max(float(text or ""), 0.0)
    except ValueError:
        return None
