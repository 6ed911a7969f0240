"""When which fault strikes: drawn from a seed, far enough apart that the system can catch up in between.

The provider's ceiling leaves the system a sixth more than the load, so what a fault held up takes several times as
long to be caught up on. Memory can be measured only in processes that live: once the first third is over, of all
processes only `worker-2` is killed, and the others meet what they must survive.
"""

import random
from collections.abc import Iterator

from tests.chaos.schedules import HANGING, KILLS, OTHERS, Fault

PAUSE_SECONDS = (25.0, 65.0)
KILLS_SHARE = 0.4
RESTLESS_SHARE = 1 / 3  # of the whole time, in which anything may be killed
MORTAL = "worker-2"
# It costs a job its whole deadline and tells nothing about load.
_LASTING = {kind: weight for kind, weight in OTHERS.items() if kind != ("provider", HANGING)}


def draw(seed: int, seconds: float, lease_seconds: float) -> list[Fault]:
    """The faults of a soak of this length, in order; `after_seconds` counts from its beginning."""
    dice = random.Random(f"soak {seed}")
    return [_fault(dice, at, at > seconds * RESTLESS_SHARE, lease_seconds) for at in _moments(dice, seconds)]


def _moments(dice: random.Random, seconds: float) -> Iterator[float]:
    at = min(dice.uniform(*PAUSE_SECONDS), seconds / 3)
    while at < seconds:
        yield at
        at += dice.uniform(*PAUSE_SECONDS)


def _fault(dice: random.Random, at: float, sparing: bool, lease_seconds: float) -> Fault:
    weights = KILLS if dice.random() < KILLS_SHARE else _LASTING
    act, target = dice.choices(list(weights), list(weights.values()))[0]
    if act == "SIGSTOP":
        return Fault(act, target, at, lease_seconds + dice.uniform(0.5, 1.5))
    if act in ("SIGKILL", "SIGTERM"):
        if target in ("postgres", "redis"):
            return Fault(act, target, at, dice.uniform(0.5, 2))
        return Fault(act, MORTAL if sparing else target, at)
    return Fault(act, target, at, 0 if act == "FLUSHALL" else dice.uniform(1, 4))
