"""What a test or a demonstration can turn on the double, and the limits it keeps.

Durations that the vendor decides (how long a prediction runs, how long outputs are kept, when a webhook is resent)
are given in the vendor's seconds and divided by `speed`. Latencies and rate limits are the wall clock's.
"""

import math
import random
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Operation = Literal["create", "get", "list", "cancel", "file", "account", "delivery"]
# Without `_after` nothing has been done when the fault strikes; with it the work is done and only the answer is lost.
Fault = Literal[
    "400", "401", "402", "403", "404", "422", "429", "500", "502", "503", "504",
    "html_502", "list_500", "not_json", "hang", "drop",
    "500_after", "not_json_after", "hang_after", "drop_after",
    "redirect", "redirect_away", "huge", "broken", "drip",
]  # fmt: skip
Outcome = Literal["succeeded", "moderated", "bad_input", "failed", "hang", "aborted", "canceled", "empty", "foreign"]
Delivery = Literal["lost", "doubled", "late", "forged", "stale"]


class Dials(BaseModel):
    """Lists are plans: each next request, prediction or webhook takes the first entry off. Rates are chances."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    speed: float = Field(1.0, gt=0)
    start_seconds: float = Field(1.0, ge=0)
    predict_seconds: float = Field(15.0, ge=0)
    predict_spread: float = Field(0.0, ge=0, le=1, description="0.2: between 80 % and 120 % of predict_seconds")
    keep_seconds: float = Field(3600.0, description="outputs, inputs and logs are deleted this long after the end")
    latency_seconds: float = Field(0.0, description="before every answer of the API")

    faults: dict[Operation, list[Fault]] = {}
    fault_rates: dict[Operation, dict[Fault, float]] = {}
    outcomes: list[Outcome] = []
    outcome_rates: dict[Outcome, float] = {}
    webhooks: list[Delivery] = []
    webhook_rates: dict[Delivery, float] = {}
    webhook_delay_seconds: float = 0.0
    webhook_late_seconds: float = 30.0

    creates_per_minute: int = 600
    create_burst: int = 600
    others_per_minute: int = 3000
    low_credit: bool = Field(False, description="6 creates a minute, one at a time, as under $5 of credit")
    retry_after_header: bool = Field(False, description="429 carries Retry-After too, which is not established")
    lean_bodies: bool = Field(False, description="objects lack `model`, `urls` and `webhook`, as some replies do")
    lean_lists: bool = Field(True, description="list results lack `webhook`")
    sync_data_urls: bool = Field(False, description="`Prefer: wait` answers `processing` with data: addresses")


def take(plan: list[Any], rates: Mapping[Any, float], chance: random.Random) -> Any | None:
    """The next entry of a plan, or one drawn by the rates, or None."""
    if plan:
        return plan.pop(0)
    draw = chance.random() if rates else 1.0
    for kind, rate in rates.items():
        draw -= rate
        if draw < 0:
            return kind
    return None


class Bucket:
    """A token bucket: `burst` at once, refilled evenly."""

    def __init__(self) -> None:
        self._level: float | None = None
        self._at = time.monotonic()

    def take(self, per_minute: float, burst: int) -> tuple[bool, Mapping[str, str], float]:
        """Whether this request is let in, the ratelimit headers, and the seconds until the next one would be."""
        now = time.monotonic()
        filled = burst if self._level is None else self._level + (now - self._at) * per_minute / 60
        self._level, self._at = min(filled, burst), now
        allowed = self._level >= 1
        if allowed:
            self._level -= 1
        reset = math.ceil((burst - self._level) * 60 / per_minute)
        headers = {"ratelimit-remaining": str(int(self._level)), "ratelimit-reset": str(reset)}
        return allowed, headers, max(0.0, (1 - self._level) * 60 / per_minute)
