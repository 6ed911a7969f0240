"""The books of attempts: each try at a photo, with its prediction, its seed, its cost and how it ended.

`shared/photos.py` opens an attempt together with its photo's change of status; from then on the attempt may outlive
the photo's interest in it, and is closed for its own sake: what may still cost money must be stopped and booked.
Every function joins the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import SystemRandom
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Select, bindparam, case, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from shared.database import db_now
from shared.models import Attempt, Job, Photo
from shared.states import AttemptOutcome

# Providers take seeds as signed 32-bit numbers.
SEED_LIMIT = 2**31
MODERATED = "moderated"
DUPLICATE = "duplicate"
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    id: UUID
    photo_id: UUID
    number: int
    seed: int
    prediction_id: str | None
    created_at: datetime
    age_seconds: float
    moderated_before: int  # how many earlier attempts at this photo the provider's filter refused


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended, and what it cost."""

    outcome: AttemptOutcome
    error_code: str | None = None
    error_detail: str | None = None
    cost_usd: Decimal = Decimal(0)
    provider_seconds: float | None = None


def begin(session: Session, photo_id: UUID, provider: str, model: str) -> OpenAttempt:
    """Write a new attempt; raises sqlalchemy.exc.IntegrityError while another one at this photo is open."""
    last = select(func.coalesce(func.max(Attempt.number), 0)).where(Attempt.photo_id == photo_id).scalar_subquery()
    seed = _random.randrange(SEED_LIMIT)
    begun = session.execute(
        insert(Attempt)
        .values(
            photo_id=photo_id,
            number=last + 1,
            provider=provider,
            model=model,
            style=select(Job.style).join(Photo, Photo.job_id == Job.id).where(Photo.id == photo_id).scalar_subquery(),
            seed=seed,
        )
        .returning(Attempt.id, Attempt.number, Attempt.created_at)
    ).one()
    moderated_before = session.scalar(_MODERATED, {"of_photo": photo_id}) if begun.number > 1 else 0
    return OpenAttempt(begun.id, photo_id, begun.number, seed, None, begun.created_at, 0.0, moderated_before or 0)


def reopen_found(session: Session, photo_id: UUID) -> int | None:
    """The number of an attempt that may bring this photo after all, open again; None if there is none.

    It was given up for lost, and its prediction found since then: running still, or ended well and closed.
    """
    return session.scalar(_REOPEN_FOUND, {"of_photo": photo_id})


def begin_anew(session: Session, attempt_id: UUID) -> None:
    """The attempt's age counts from now, the moment before its prediction is asked for.

    What came before, such as reading the portrait, has no bound in time; the call that follows has one.
    """
    session.execute(_BEGIN_ANEW, {"of_attempt": attempt_id})


def find_open(session: Session, photo_id: UUID) -> OpenAttempt | None:
    """The attempt that may bring this photo."""
    return _one(session, _OPEN, of_photo=photo_id)


def find_unclosed(session: Session, attempt_id: UUID) -> OpenAttempt | None:
    """An attempt whose photo ended without it, if it still has to be closed."""
    return _one(session, _UNCLOSED, of_attempt=attempt_id)


def record_prediction(session: Session, attempt_id: UUID, prediction_id: str) -> bool:
    """Write down which prediction this attempt is paying for; False if it, or another attempt, has one already.

    This is a fact and not a right, so it is taken from a worker without a lease too. An attempt that was given up
    for lost meanwhile becomes one to be closed, so that what it costs is stopped and booked: as a duplicate, because
    another was ordered in its place.
    """
    taken = select(Attempt.id).where(Attempt.prediction_id == prediction_id).exists()
    lost = Attempt.outcome == AttemptOutcome.LOST
    recorded = session.scalar(
        update(Attempt)
        .where(Attempt.id == attempt_id, Attempt.prediction_id.is_(None), ~taken)
        .values(
            prediction_id=prediction_id,
            submitted_at=db_now(),
            close_due_at=case((lost, db_now()), else_=Attempt.close_due_at),
            error_code=case((lost, DUPLICATE), else_=Attempt.error_code),
        )
        .returning(Attempt.id)
        .execution_options(synchronize_session=False)
    )
    return recorded is not None


def record_duplicate(session: Session, attempt: OpenAttempt, prediction_id: str) -> bool:
    """Write down a second prediction of one attempt, to be stopped and booked; False if it is known already."""
    last = select(func.max(Attempt.number)).where(Attempt.photo_id == attempt.photo_id).scalar_subquery()
    original = select(Attempt.provider, Attempt.model, Attempt.style).where(Attempt.id == attempt.id).subquery()
    recorded = session.scalar(
        upsert(Attempt)
        .values(
            photo_id=attempt.photo_id,
            number=last + 1,
            provider=select(original.c.provider).scalar_subquery(),
            model=select(original.c.model).scalar_subquery(),
            style=select(original.c.style).scalar_subquery(),
            seed=attempt.seed,
            prediction_id=prediction_id,
            outcome=AttemptOutcome.CANCELED,
            error_code=DUPLICATE,
            submitted_at=db_now(),
            ended_at=db_now(),
            close_due_at=db_now(),
        )
        .on_conflict_do_nothing(index_elements=[Attempt.provider, Attempt.prediction_id])
        .returning(Attempt.id)
    )
    return recorded is not None


def end(session: Session, attempt_id: UUID, ended: AttemptEnd, *, unwanted: bool = False) -> bool:
    """Close the attempt's books; False if they were closed before, or are somebody else's to close.

    An open attempt is its photo's to end; one that is `unwanted` waits to be closed. What was unwanted may have
    become its photo's again. It is LOST only for as long as no prediction is known: one that was written down
    meanwhile must not be forgotten.
    """
    unknown = [Attempt.prediction_id.is_(None)] if ended.outcome is AttemptOutcome.LOST else []
    closed = session.scalar(
        update(Attempt)
        .where(
            Attempt.id == attempt_id,
            *unknown,
            Attempt.close_due_at.is_not(None) if unwanted else Attempt.outcome == AttemptOutcome.OPEN,
        )
        .values(
            outcome=ended.outcome,
            # A duplicate stays one however its prediction ended: what it cost is money for nothing, and is counted.
            error_code=case((Attempt.error_code == DUPLICATE, DUPLICATE), else_=ended.error_code),
            error_detail=ended.error_detail,
            cost=ended.cost_usd,
            provider_seconds=ended.provider_seconds,
            ended_at=db_now(),
            close_due_at=None,
        )
        .returning(Attempt.id)
        .execution_options(synchronize_session=False)
    )
    return closed is not None


def close_later(session: Session, attempt_id: UUID, after_seconds: float) -> None:
    """Have the attempt looked at again, to be closed, unless it is its photo's."""
    session.execute(
        update(Attempt)
        .where(Attempt.id == attempt_id, or_(Attempt.outcome != AttemptOutcome.OPEN, Attempt.close_due_at.is_not(None)))
        .values(close_due_at=db_now() + timedelta(seconds=after_seconds))
        .execution_options(synchronize_session=False)
    )


def unclosed() -> ColumnElement[bool]:
    """What `take_unclosed` looks for."""
    return Attempt.close_due_at <= db_now()


def take_unclosed(session: Session, limit: int, again_after_seconds: float) -> Sequence[UUID]:
    """Up to `limit` attempts that wait to be closed; each comes again after `again_after_seconds`."""
    taken = (
        select(Attempt.id)
        .where(unclosed())
        .order_by(Attempt.close_due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("taken")
    )
    return session.scalars(
        update(Attempt)
        .where(Attempt.id.in_(select(taken.c.id)))
        .values(close_due_at=db_now() + timedelta(seconds=again_after_seconds))
        .returning(Attempt.id)
        .execution_options(synchronize_session=False)
    ).all()


_earlier = aliased(Attempt)
_MODERATED = select(func.count()).where(_earlier.photo_id == bindparam("of_photo"), _earlier.error_code == MODERATED)
# Put together once: for each photo that is looked at it took longer than asking the database did (measured).
_ATTEMPT = select(
    Attempt.id,
    Attempt.photo_id,
    Attempt.number,
    Attempt.seed,
    Attempt.prediction_id,
    Attempt.created_at,
    func.extract("epoch", db_now() - Attempt.created_at).cast(Float).label("age_seconds"),
    select(func.count())
    .where(_earlier.photo_id == Attempt.photo_id, _earlier.error_code == MODERATED)
    .correlate(Attempt)
    .scalar_subquery(),
)
_OPEN = _ATTEMPT.where(Attempt.photo_id == bindparam("of_photo"), Attempt.outcome == AttemptOutcome.OPEN)
_UNCLOSED = _ATTEMPT.where(Attempt.id == bindparam("of_attempt"), Attempt.close_due_at.is_not(None))
_BEGIN_ANEW = (
    update(Attempt)
    .where(Attempt.id == bindparam("of_attempt"))
    .values(created_at=db_now())
    .execution_options(synchronize_session=False)
)
_FOUND = (
    select(Attempt.id)
    .where(
        Attempt.photo_id == bindparam("of_photo"),
        Attempt.prediction_id.is_not(None),
        Attempt.outcome.in_((AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED)),
    )
    .order_by(Attempt.number)
    .limit(1)
    .scalar_subquery()
)
_REOPEN_FOUND = (
    update(Attempt)
    .where(Attempt.id == _FOUND)
    .values(outcome=AttemptOutcome.OPEN, error_code=None, ended_at=None, close_due_at=None)
    .returning(Attempt.number)
    .execution_options(synchronize_session=False)
)


def _one(session: Session, statement: Select[Any], **values: UUID) -> OpenAttempt | None:
    row = session.execute(statement, values).one_or_none()
    return None if row is None else OpenAttempt(*row)
