"""The books of deliveries: the webhooks by which the site is told how a job ended.

The row is written by the transaction that settles the job, so there is one for each end, and none for an end that
was taken back. Every function joins the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, insert, null, or_, select, update
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.models import Delivery
from shared.states import DeliveryStatus

GIVEN_UP_AFTER_SECONDS = 2 * 60 * 60.0  # since the first try


@dataclass(frozen=True, slots=True)
class Try:
    """The right to make one try, until its lease ends. `number` is 1 for the first."""

    delivery_id: UUID
    job_id: UUID
    number: int


def begin(session: Session, job_id: UUID) -> None:
    """Have the site told of the job's end; the caller has just settled it."""
    session.execute(insert(Delivery).values(job_id=job_id))


def due(resend_seconds: float) -> ColumnElement[bool]:
    """What `take_due` looks for."""
    return and_(
        Delivery.status == DeliveryStatus.WAITING,
        Delivery.next_try_at <= db_now(),
        or_(Delivery.sent_at.is_(None), Delivery.sent_at <= _sent_before(resend_seconds)),
    )


def take_due(session: Session, at_once: int, resend_seconds: float) -> Sequence[UUID]:
    """Deliveries that are due and that nobody is acting on, longest waiting first; marked as sent.

    Together with those that were sent within `resend_seconds` and have not ended their try, about `at_once`: all go to
    one address, and when it hangs it must not hold every thread of the workers.
    """
    sent_lately = (Delivery.status == DeliveryStatus.WAITING) & (Delivery.sent_at > _sent_before(resend_seconds))
    on_their_way = session.scalar(select(func.count()).where(sent_lately)) or 0
    taken = (
        select(Delivery.id)
        .where(due(resend_seconds))
        .order_by(Delivery.next_try_at)
        .limit(max(0, at_once - on_their_way))
        .with_for_update(skip_locked=True)
        .cte("taken")
    )
    return session.scalars(
        update(Delivery)
        .where(Delivery.id.in_(select(taken.c.id)))
        .values(sent_at=db_now())
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    ).all()


def claim(session: Session, delivery_id: UUID, lease_seconds: float) -> Try | None:
    """Take the next try; None if it is not due, not wanted any more, or somebody else's."""
    row = session.execute(
        update(Delivery)
        .where(
            Delivery.id == delivery_id,
            Delivery.status == DeliveryStatus.WAITING,
            Delivery.next_try_at <= db_now(),
        )
        .values(
            tries=Delivery.tries + 1,
            next_try_at=db_now() + timedelta(seconds=lease_seconds),
            first_tried_at=func.coalesce(Delivery.first_tried_at, db_now()),
        )
        .returning(Delivery.job_id, Delivery.tries)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None else Try(delivery_id, row.job_id, row.tries)


def delivered(session: Session, made: Try, http_status: int | None) -> bool:
    """WAITING -> DELIVERED; False if it has ended already.

    This is a fact and not a right, so it is taken from a worker whose lease has ended, too.
    """
    changed = session.scalar(
        update(Delivery)
        .where(Delivery.id == made.delivery_id, Delivery.status == DeliveryStatus.WAITING)
        .values(
            status=DeliveryStatus.DELIVERED,
            last_status=http_status,
            last_error=None,
            next_try_at=None,
            sent_at=None,
            ended_at=db_now(),
        )
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    return changed is not None


def failed(
    session: Session, made: Try, http_status: int | None, error: str, again_after_seconds: float
) -> DeliveryStatus | None:
    """The try was not taken: WAITING for the next, or GIVEN_UP when the time is over; None if it was not ours any more.

    The last try is made when the time ends, and not before, however long the pause should have been.
    """
    ends_at = Delivery.first_tried_at + timedelta(seconds=GIVEN_UP_AFTER_SECONDS)
    over = db_now() >= ends_at
    next_try_at = func.least(db_now() + timedelta(seconds=again_after_seconds), ends_at)
    return session.scalar(
        update(Delivery)
        .where(
            Delivery.id == made.delivery_id,
            Delivery.status == DeliveryStatus.WAITING,
            Delivery.tries == made.number,
        )
        .values(
            status=case((over, DeliveryStatus.GIVEN_UP), else_=DeliveryStatus.WAITING),
            last_status=http_status,
            last_error=error,
            next_try_at=case((over, null()), else_=next_try_at),
            sent_at=None,
            ended_at=case((over, db_now()), else_=null()),
        )
        .returning(Delivery.status)
        .execution_options(synchronize_session=False)
    )


def _sent_before(resend_seconds: float) -> ColumnElement[Any]:
    return db_now() - timedelta(seconds=resend_seconds)
