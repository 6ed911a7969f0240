"""Claims: one worker's right to one photo until its lease ends by the database's clock.

Whatever the holder does names the claim's token, so a worker that comes back too late changes nothing: it gets
`LeaseLost`. So does one whose job has ended.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Interval, bindparam, or_, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from shared.database import db_now
from shared.models import Job, Photo
from shared.origin import Origin
from shared.states import ACTIVE_JOB, PhotoStatus


class LeaseLost(Exception):
    """The photo is no longer ours: its lease ended, or its job did."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One photo, held by one worker; with what its steps need to know."""

    photo_id: UUID
    job_id: UUID
    user_id: UUID
    slot: int
    lease_token: UUID
    style: str
    role: str | None
    portrait_id: UUID
    origin: Origin


def claim(
    session: Session, photo_id: UUID, expected: PhotoStatus, lease_seconds: float, *, hinted: bool = False
) -> Claim | None:
    """Take the photo for `lease_seconds`; None if it is not due, not wanted any more, or somebody else's.

    `hinted` is for news from outside that makes waiting for the next check pointless; it never breaks a lease.
    """
    token = uuid4()
    row = session.execute(
        _CLAIM_ON_NEWS if hinted else _CLAIM,
        {"of_photo": photo_id, "expected": expected, "token": token, "within": timedelta(seconds=lease_seconds)},
    ).one_or_none()
    if row is None:
        return None
    origin = Origin(row.job_id, row.request_id, row.traceparent)
    return Claim(photo_id, row.job_id, row.user_id, row.slot, token, row.style, row.role, row.portrait_id, origin)


def renew(session: Session, claim: Claim, lease_seconds: float) -> None:
    """Begin the lease anew. Raises LeaseLost."""
    _if_held(session, _RENEW, claim, within=timedelta(seconds=lease_seconds))


def release(session: Session, claim: Claim, after_seconds: float) -> None:
    """Give the photo back; it is due again in `after_seconds`. Raises LeaseLost."""
    _if_held(session, _RELEASE, claim, within=timedelta(seconds=after_seconds))


def change(session: Session, claim: Claim, expected: PhotoStatus, **values: Any) -> None:
    """The photo's next step, from the status that is expected. Raises LeaseLost, for another status too."""
    _if_held(session, _HELD.where(Photo.status == expected).values(**values), claim)


def _if_held(session: Session, step: ReturningUpdate[Any], claim: Claim, **values: timedelta) -> None:
    if session.scalar(step, {"of_photo": claim.photo_id, "held_by": claim.lease_token, **values}) is None:
        raise LeaseLost


# The statements of every step are put together once; for each photo anew it took as long as asking (measured).
_WANTED = (
    update(Photo)
    .where(
        Photo.id == bindparam("of_photo"),
        Photo.status == bindparam("expected"),
        Job.id == Photo.job_id,
        Job.status.in_(ACTIVE_JOB),
    )
    .values(lease_token=bindparam("token"), next_check_at=db_now() + bindparam("within", type_=Interval), sent_at=None)
    .returning(
        Photo.job_id,
        Job.user_id,
        Photo.slot,
        Job.style,
        Job.role,
        Job.portrait_id,
        Job.request_id,
        Job.traceparent,
    )
    .execution_options(synchronize_session=False)
)
_DUE = Photo.next_check_at <= db_now()
_CLAIM = _WANTED.where(_DUE)
_CLAIM_ON_NEWS = _WANTED.where(or_(_DUE, Photo.lease_token.is_(None)))

# The compare-and-set through which all that a claim's holder does must pass.
_HELD = (
    update(Photo)
    .where(Photo.id == bindparam("of_photo"), Photo.lease_token == bindparam("held_by"))
    .returning(Photo.id)
    .execution_options(synchronize_session=False)
)
_RENEW = _HELD.values(next_check_at=db_now() + bindparam("within", type_=Interval))
_RELEASE = _RENEW.values(lease_token=None)
