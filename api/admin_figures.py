"""The staff's overview: what is owed, what failed and what it cost, what waits, and what nobody can explain.

Days are of UTC. Each figure is one statement over an index that is bounded in time or holds only what is in work.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

DAYS = 30
STUCK_SECONDS = 60  # what the sweep looks at every second, or two, is stuck after this
STUCK_SHOWN = 20

_NOW = text("""
SELECT
    (SELECT count(*) FROM photos WHERE status = 'PENDING') AS pending,
    (SELECT count(*) FROM photos WHERE status = 'GENERATING') AS generating,
    (SELECT count(*) FROM jobs WHERE status IN ('QUEUED', 'PROCESSING')) AS jobs_in_work,
    (SELECT coalesce(greatest(0, extract(epoch FROM cuggu_now() - min(next_check_at))), 0)::float
       FROM photos WHERE status IN ('PENDING', 'GENERATING')) AS oldest_due_seconds,
    (SELECT count(*) FROM attempts WHERE close_due_at IS NOT NULL) AS unclosed,
    (SELECT count(*) FROM attempts WHERE outcome = 'OPEN' AND prediction_id IS NULL) AS ambiguous,
    (SELECT count(*) FROM attempts WHERE outcome = 'LOST') AS lost,
    (SELECT count(*) FROM attempts WHERE error_code = 'duplicate') AS duplicates,
    (SELECT coalesce(sum(cost), 0) FROM attempts WHERE error_code = 'duplicate') AS duplicates_cost,
    (SELECT count(*) FROM deliveries WHERE status = 'WAITING') AS deliveries_waiting,
    (SELECT count(*) FROM deliveries WHERE status = 'GIVEN_UP') AS deliveries_given_up,
    cuggu_now() AS at, (cuggu_now() AT TIME ZONE 'UTC')::date AS today
""")
_BALANCES = text("SELECT count(*) AS users, coalesce(sum(credits), 0) AS credits FROM users")
_ENDED = text("""
SELECT (completed_at AT TIME ZONE 'UTC')::date AS day, style, status, count(*) AS jobs
  FROM jobs WHERE completed_at >= :since GROUP BY 1, 2, 3
""")
_COSTS = text("""
SELECT (ended_at AT TIME ZONE 'UTC')::date AS day, model, coalesce(style, 'unknown') AS style, outcome,
       count(*) AS attempts, sum(cost) AS cost
  FROM attempts WHERE ended_at >= :since GROUP BY 1, 2, 3, 4
""")
_STUCK = text("""
(SELECT 'deadline passed' AS what, id AS job_id, deadline_at AS since FROM jobs
  WHERE status IN ('QUEUED', 'PROCESSING') AND deadline_at < cuggu_now() - make_interval(secs => :seconds)
  ORDER BY deadline_at LIMIT :shown)
UNION ALL
(SELECT 'photo left alone', job_id, next_check_at FROM photos
  WHERE status IN ('PENDING', 'GENERATING') AND next_check_at < cuggu_now() - make_interval(secs => :seconds)
  ORDER BY next_check_at LIMIT :shown)
UNION ALL
(SELECT 'create call without an answer', p.job_id, a.created_at FROM attempts a JOIN photos p ON p.id = a.photo_id
  WHERE a.outcome = 'OPEN' AND a.prediction_id IS NULL AND a.created_at < cuggu_now() - make_interval(secs => :seconds)
  ORDER BY a.created_at LIMIT :shown)
UNION ALL
(SELECT 'attempt not closed', p.job_id, a.close_due_at FROM attempts a JOIN photos p ON p.id = a.photo_id
  WHERE a.close_due_at < cuggu_now() - make_interval(secs => :seconds)
  ORDER BY a.close_due_at LIMIT :shown)
UNION ALL
(SELECT 'attempt lost', p.job_id, a.ended_at FROM attempts a JOIN photos p ON p.id = a.photo_id
  WHERE a.outcome = 'LOST' AND a.ended_at >= :since ORDER BY a.ended_at DESC LIMIT :shown)
""")


@dataclass(slots=True)
class Ended:
    """How many jobs ended how, and what was booked for them. A canceled job says nothing about our work."""

    completed: int = 0
    partial: int = 0
    failed: int = 0
    canceled: int = 0
    cost: Decimal = Decimal(0)

    def add(self, status: str, jobs: int) -> None:
        name = status.lower()
        setattr(self, name, getattr(self, name) + jobs)

    @property
    def ended(self) -> int:
        return self.completed + self.fell_short + self.canceled

    @property
    def fell_short(self) -> int:
        return self.partial + self.failed

    @property
    def fail_rate(self) -> float | None:
        judged = self.completed + self.fell_short
        return self.fell_short / judged if judged else None


@dataclass(slots=True)
class Model:
    """Attempts by how they ended; every one of them may have cost something."""

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cost: Decimal = Decimal(0)

    @property
    def attempts(self) -> int:
        return sum(self.outcomes.values())

    @property
    def fail_rate(self) -> float | None:
        judged = self.attempts - self.outcomes.get("CANCELED", 0)
        return 1 - self.outcomes.get("SUCCEEDED", 0) / judged if judged else None


@dataclass(frozen=True, slots=True)
class Stuck:
    what: str
    job_id: UUID
    since: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    now: RowMapping
    balances: RowMapping
    days: Mapping[date, Ended]  # the newest first, all of them
    styles: Mapping[str, Ended]
    models: Mapping[str, Model]
    total: Ended
    stuck: Sequence[Stuck]


def read_overview(session: Session) -> Overview:
    """All of it, as of one moment: the caller's transaction repeats its reads."""
    now = session.execute(_NOW).mappings().one()
    first = now["today"] - timedelta(days=DAYS - 1)
    bounds = {"since": f"{first}T00:00:00Z", "seconds": STUCK_SECONDS, "shown": STUCK_SHOWN}
    days = {now["today"] - timedelta(days=back): Ended() for back in range(DAYS)}
    styles: dict[str, Ended] = defaultdict(Ended)
    models: dict[str, Model] = defaultdict(Model)
    total = Ended()
    for row in session.execute(_ENDED, bounds):
        for into in (days[row.day], styles[row.style], total):
            into.add(row.status, row.jobs)
    for row in session.execute(_COSTS, bounds):
        models[row.model].outcomes[row.outcome] += row.attempts
        for spent in (days[row.day], styles[row.style], models[row.model], total):
            spent.cost += row.cost
    return Overview(
        now=now,
        balances=session.execute(_BALANCES).mappings().one(),
        days=days,
        styles=dict(sorted(styles.items())),
        models=dict(sorted(models.items())),
        total=total,
        stuck=[Stuck(*row) for row in session.execute(_STUCK, bounds)],
    )
