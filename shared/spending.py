"""Whether new jobs may be taken, as far as money goes: the monthly budget, and the switch that staff may turn.

The month's cost is what is booked for attempts that ended in it, and what everything in work is expected to cost. A
job counts from the commit that accepts it, with all its photos, so the budget is overshot by no more than the
submissions that were between their look and their commit at one moment, and by attempts that have to be repeated.
Running jobs always finish.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared import staff_actions
from shared.database import db_now
from shared.errors import Paused
from shared.model_prices import expected_price_usd
from shared.models import Attempt, Photo
from shared.settings import Settings
from shared.staff_actions import Actor
from shared.staff_models import Pause
from shared.states import ACTIVE_PHOTO

# What clients are asked to wait: staff may resume, or raise the budget, at any moment.
PAUSED_SECONDS = 300
OVER_BUDGET_SECONDS = 3600
# An attempt's end is timed when its transaction begins: what lies this far back is all committed.
COMMITTED_SECONDS = 60
# How long a sum is remembered; what came since is added each time, so this bounds only how much that is.
REMEMBERED_SECONDS = 300


@dataclass(frozen=True, slots=True)
class MonthCost:
    """In USD, of this month (UTC)."""

    booked: Decimal
    expected: Decimal  # of all that is in work, by the price list

    @property
    def total(self) -> Decimal:
        return self.booked + self.expected


@dataclass(frozen=True, slots=True)
class _Sum:
    month: datetime
    until: datetime
    booked: Decimal


class Spending:
    """Says what this month has cost, and refuses new jobs when that is enough."""

    def __init__(self, settings: Settings) -> None:
        self.budget_usd = settings.monthly_budget_usd
        self._price_usd = expected_price_usd(settings)
        self._sum: _Sum | None = None

    def refuse_if_paused(self, session: Session) -> None:
        """Raises Paused while the switch is off, or the budget spent."""
        if open_pause(session) is not None:
            raise Paused(retry_after_seconds=PAUSED_SECONDS)
        if self.budget_usd is not None and self.month_cost(session).total >= self.budget_usd:
            raise Paused(retry_after_seconds=OVER_BUDGET_SECONDS)

    def month_cost(self, session: Session) -> MonthCost:
        """Exact to the row, and read in milliseconds however much the month holds (but once in five minutes)."""
        now, month = session.execute(select(db_now(), func.date_trunc("month", db_now(), "UTC"))).one()
        known = self._sum
        if known is None or known.month != month or now - known.until > timedelta(seconds=REMEMBERED_SECONDS):
            until = max(month, now - timedelta(seconds=COMMITTED_SECONDS))
            known = self._sum = _Sum(month, until, _booked(session, month, until))
        photos = select(func.count()).where(Photo.status.in_(ACTIVE_PHOTO)).scalar_subquery()
        unclosed = select(func.count()).where(Attempt.close_due_at.is_not(None)).select_from(Attempt).scalar_subquery()
        in_work: int = session.execute(select(photos + unclosed)).scalar_one()
        return MonthCost(known.booked + _booked(session, known.until, None), in_work * self._price_usd)


def open_pause(session: Session) -> Pause | None:
    """The pause that is on, if one is."""
    return session.scalar(select(Pause).where(Pause.ended_at.is_(None)))


def pause(session: Session, actor: Actor, reason: str) -> bool:
    """Take no new jobs from this commit on; False if a pause is on already, whose reason stays."""
    begun = session.scalar(upsert(Pause).values(reason=reason).on_conflict_do_nothing().returning(Pause.id))
    if begun is not None:
        staff_actions.record(session, actor, "jobs.paused", {"reason": reason})
    return begun is not None


def resume(session: Session, actor: Actor) -> bool:
    """Take new jobs again; False if no pause was on."""
    ended = session.scalar(
        update(Pause)
        .where(Pause.ended_at.is_(None))
        .values(ended_at=db_now())
        .returning(Pause.id)
        .execution_options(synchronize_session=False)
    )
    if ended is not None:
        staff_actions.record(session, actor, "jobs.resumed")
    return ended is not None


def _booked(session: Session, since: datetime, until: datetime | None) -> Decimal:
    before = [] if until is None else [Attempt.ended_at < until]
    return session.execute(
        select(func.coalesce(func.sum(Attempt.cost), Decimal(0))).where(Attempt.ended_at >= since, *before)
    ).scalar_one()
