"""What a seed means: which jobs a schedule orders, and which faults strike while they are made.

Drawn from the seed alone, so the same seed strikes the same faults at the same moments again. What the processes are
doing at that moment is the machine's own affair.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.wire import TROUBLES

WORKERS = ("worker", "worker-2")
WIRES = ("postgres", "redis", "replicate", "s3", "azure")
STYLES = ("CLASSIC", "MODERN", "VINTAGE", "ROMANTIC", "CINEMATIC")

# The provider's bad moments, by the part of the double's dials that they turn and the rate while they last.
MOODS: dict[str, tuple[str, str, str, float]] = {
    **{f"webhooks {kind}": ("webhook_rates", "", kind, 0.6) for kind in ("lost", "doubled", "late", "forged", "stale")},
    **{f"creates {kind}": ("fault_rates", "create", kind, 0.4) for kind in ("429", "500", "503", "drop")},
    # The work is done and only the answer is lost.
    **{
        f"creates {kind}": ("fault_rates", "create", kind, 0.6)
        for kind in ("drop_after", "500_after", "hang_after", "not_json_after")
    },
    **{f"reads {kind}": ("fault_rates", "get", kind, 0.4) for kind in ("429", "503", "drop", "hang")},
    **{f"lists {kind}": ("fault_rates", "list", kind, 0.5) for kind in ("500", "drop")},
    **{f"downloads {kind}": ("fault_rates", "delivery", kind, 0.4) for kind in ("503", "drop", "hang")},
    **{f"predictions {kind}": ("outcome_rates", "", kind, 0.3) for kind in ("aborted", "failed", "moderated")},
}
HANGING = "predictions hang"
MOODS[HANGING] = ("outcome_rates", "", "hang", 0.15)

# Every schedule is struck by one of these at least. A process is restarted by its supervisor, a server after a while.
KILLS: dict[tuple[str, str], float] = {
    ("SIGKILL", "worker"): 8,
    ("SIGKILL", "every worker"): 2,
    ("SIGKILL", "api"): 3,
    ("SIGKILL", "beat"): 2,
    ("SIGKILL", "postgres"): 2,
    ("SIGKILL", "redis"): 2,
}
OTHERS: dict[tuple[str, str], float] = {
    ("SIGTERM", "worker"): 2.0,
    ("SIGSTOP", "worker"): 3.0,
    ("FLUSHALL", "redis"): 2.0,
    **{(trouble, wire): 0.7 for trouble in TROUBLES for wire in WIRES},
    **{("provider", mood): 1.5 if mood.endswith("_after") else 0.6 for mood in MOODS},
    ("provider", HANGING): 0.2,  # each costs a job its whole deadline
}
STRIKE_SECONDS = 3.5  # faults strike within this, from the schedule's beginning


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `after_seconds` counts from the schedule's beginning; `seconds` is how long it lasts, 0 for a blow."""

    act: str
    target: str
    after_seconds: float
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """Its name in the tables: which of the workers it was does not matter there."""
        return f"{self.act} {self.target.removesuffix('-2')}"


@dataclass(frozen=True, slots=True)
class Order:
    """One job that a couple orders; `cancel_after_seconds` counts from its acceptance."""

    after_seconds: float
    style: str
    doubled: bool  # sent twice at once, under one Idempotency-Key
    cancel_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    orders: tuple[Order, ...]
    faults: tuple[Fault, ...]


def draw(seed: int, lease_seconds: float) -> Schedule:
    """The schedule of this seed; a worker is stopped for longer than `lease_seconds`."""
    dice = random.Random(f"chaos {seed}")
    orders = tuple(_order(dice) for _ in range(dice.choices((1, 2, 3), (5, 3, 1))[0]))
    drawn = [_pick(dice, KILLS)]
    drawn += [
        _pick(dice, KILLS if dice.random() < 0.1 else OTHERS) for _ in range(dice.choices((0, 1, 2), (3, 4, 3))[0])
    ]
    return Schedule(seed, orders, tuple(_fault(dice, act, target, lease_seconds) for act, target in drawn))


def draw_worker_kill(seed: int) -> Schedule:
    """One plain job, and one worker, or every worker, killed while it is made."""
    dice = random.Random(f"worker kill {seed}")
    target = dice.choice((*WORKERS, "every worker"))
    order = Order(0.0, dice.choice(STYLES), doubled=False, cancel_after_seconds=None)
    return Schedule(seed, (order,), (Fault("SIGKILL", target, dice.uniform(0.2, STRIKE_SECONDS)),))


def _order(dice: random.Random) -> Order:
    return Order(
        after_seconds=dice.uniform(0, 0.5),
        style=dice.choice(STYLES),
        doubled=dice.random() < 0.25,
        cancel_after_seconds=dice.uniform(0, 4) if dice.random() < 0.12 else None,
    )


def _pick(dice: random.Random, weights: Mapping[tuple[str, str], float]) -> tuple[str, str]:
    return dice.choices(list(weights), list(weights.values()))[0]


def _fault(dice: random.Random, act: str, target: str, lease_seconds: float) -> Fault:
    after_seconds = dice.uniform(0, STRIKE_SECONDS)
    seconds = 0.0
    if act == "SIGSTOP":
        seconds = lease_seconds + dice.uniform(0.5, 1.5)
    elif target in ("postgres", "redis") and act == "SIGKILL":
        seconds = dice.uniform(0.1, 1.5)
    elif act in TROUBLES or act == "provider":
        # Early and long enough to be there when predictions are created, which is soon over.
        after_seconds /= 2
        seconds = dice.uniform(1.0, 4.0)
    if act in ("SIGKILL", "SIGTERM", "SIGSTOP") and target == "worker":
        target = dice.choice(WORKERS)
    return Fault(act, target, after_seconds, seconds)
