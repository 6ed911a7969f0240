"""The writer of photo status: every step of a photo on its way, by the holder of its claim (`shared/leases.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from shared import attempts, jobs, leases, loose_objects
from shared.attempts import AttemptEnd, OpenAttempt
from shared.database import db_now
from shared.jobs import Settlement
from shared.leases import Claim, LeaseLost
from shared.models import Attempt, Job, Photo
from shared.states import ACTIVE_JOB, AttemptOutcome, PhotoStatus

LATE_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    object_key: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    thumbnail_key: str | None = None


def hand_back(session: Session, claim: Claim, *, nothing_sent: bool) -> None:
    """Give the photo back unfinished, for another worker to go on at once. Raises LeaseLost.

    `nothing_sent`: an attempt that the claim's holder has opened was not sent to the provider, and will not be.
    """
    if nothing_sent:
        _lock_wanted_job(session, claim)  # as `open_attempt` does: from here on there is an attempt, or will be none
        attempt = attempts.find_open(session, claim.photo_id)
        if attempt is not None:
            withdraw_attempt(session, claim, attempt, 0)
            return
    leases.release(session, claim, 0)


def send_again(session: Session, photo_id: UUID) -> None:
    """The message about this photo was not acted on: let the sweep send another as soon as the photo is due."""
    session.execute(
        update(Photo).where(Photo.id == photo_id).values(sent_at=None).execution_options(synchronize_session=False)
    )


def resume_found(session: Session, claim: Claim) -> bool:
    """PENDING -> GENERATING, and due to be collected: an earlier prediction of this photo was found, and is unused.

    False if there is none, and nothing has changed. Raises LeaseLost.
    """
    job = _lock_wanted_job(session, claim)
    number = attempts.reopen_found(session, claim.photo_id)
    if number is None:
        return False
    leases.change(
        session, claim, PhotoStatus.PENDING, status=PhotoStatus.GENERATING, lease_token=None, next_check_at=db_now()
    )
    jobs.begin_processing(session, job)
    jobs.record_event(session, claim.job_id, "photo.started", claim.photo_id, slot=claim.slot, attempt=number)
    return True


def open_attempt(session: Session, claim: Claim, provider: str, model: str) -> OpenAttempt:
    """PENDING -> GENERATING: write down that a prediction is about to be paid for, before it is.

    Raises:
        LeaseLost: the photo is no longer ours.
        sqlalchemy.exc.IntegrityError: another attempt at this photo is open.
    """
    job = _lock_wanted_job(session, claim)
    leases.change(session, claim, PhotoStatus.PENDING, status=PhotoStatus.GENERATING)
    jobs.begin_processing(session, job)
    attempt = attempts.begin(session, claim.photo_id, provider, model)
    jobs.record_event(session, claim.job_id, "photo.started", claim.photo_id, slot=claim.slot, attempt=attempt.number)
    return attempt


def withdraw_attempt(session: Session, claim: Claim, attempt: OpenAttempt, after_seconds: float) -> None:
    """GENERATING -> PENDING: the provider surely did not take it, so it was no attempt. Raises LeaseLost."""
    _lock_wanted_job(session, claim)
    leases.change(
        session,
        claim,
        PhotoStatus.GENERATING,
        status=PhotoStatus.PENDING,
        lease_token=None,
        next_check_at=_in(after_seconds),
    )
    session.execute(delete(Attempt).where(Attempt.id == attempt.id, Attempt.prediction_id.is_(None)))


def store(session: Session, claim: Claim, attempt: OpenAttempt, end: AttemptEnd, file: StoredFile) -> Settlement | None:
    """GENERATING -> STORED: the object is in place. The settlement, if this was the job's last photo.

    Raises:
        LeaseLost: the photo is no longer ours; what was put must be looked at again.
    """
    job = _lock_wanted_job(session, claim)
    leases.change(
        session,
        claim,
        PhotoStatus.GENERATING,
        status=PhotoStatus.STORED,
        lease_token=None,
        error_code=None,
        error_detail=None,
        object_key=file.object_key,
        width=file.width,
        height=file.height,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        thumbnail_key=file.thumbnail_key,
        stored_at=db_now(),
    )
    _end_attempt(session, attempt, end)
    loose_objects.keep(session, *filter(None, (file.object_key, file.thumbnail_key)))
    jobs.record_event(session, claim.job_id, "photo.stored", claim.photo_id, slot=claim.slot)
    return jobs.settle_if_ended(session, job)


def retry(session: Session, claim: Claim, attempt: OpenAttempt, end: AttemptEnd, after_seconds: float) -> None:
    """GENERATING -> PENDING: this attempt failed and another may do better. Raises LeaseLost."""
    _lock_wanted_job(session, claim)
    leases.change(
        session,
        claim,
        PhotoStatus.GENERATING,
        status=PhotoStatus.PENDING,
        lease_token=None,
        next_check_at=_in(after_seconds),
        error_code=end.error_code,
        error_detail=end.error_detail,
    )
    _end_attempt(session, attempt, end)
    jobs.record_event(
        session, claim.job_id, "photo.retried", claim.photo_id, slot=claim.slot, error_code=end.error_code
    )


def give_up(session: Session, claim: Claim, attempt: OpenAttempt, end: AttemptEnd) -> Settlement | None:
    """GENERATING -> FAILED: nothing more is tried. The settlement, if this was the last photo. Raises LeaseLost."""
    job = _lock_wanted_job(session, claim)
    leases.change(
        session,
        claim,
        PhotoStatus.GENERATING,
        status=PhotoStatus.FAILED,
        lease_token=None,
        error_code=end.error_code,
        error_detail=end.error_detail,
    )
    _end_attempt(session, attempt, end)
    jobs.record_event(session, claim.job_id, "photo.failed", claim.photo_id, slot=claim.slot, error_code=end.error_code)
    return jobs.settle_if_ended(session, job)


def photo_key(claim: Claim, attempt: OpenAttempt) -> str:
    """Where the photo goes that this claim brings.

    An address of its own, so that a late put never replaces another worker's photo, of this attempt or a later one: no
    two signed files are the same.
    """
    return f"photos/{claim.job_id}/{claim.slot}/{attempt.id}-{claim.lease_token}"


def thumbnail_key(claim: Claim, attempt: OpenAttempt) -> str:
    """Where that photo's thumbnail goes."""
    return f"thumbnails/{claim.job_id}/{claim.slot}/{attempt.id}-{claim.lease_token}"


def due(status: PhotoStatus, resend_seconds: float) -> ColumnElement[bool]:
    """What `take_due` looks for."""
    return and_(
        Photo.status == status,
        Photo.next_check_at <= db_now(),
        or_(Photo.sent_at.is_(None), Photo.sent_at <= db_now() - timedelta(seconds=resend_seconds)),
    )


def take_due(session: Session, status: PhotoStatus, limit: int, resend_seconds: float) -> Sequence[UUID]:
    """Up to `limit` photos that nobody is acting on although they are due, longest waiting first; marked as sent.

    Safe to run twice at once: each row goes to one caller. What was sent and not acted on comes again after
    `resend_seconds`, because a message may be lost.
    """
    taken = (
        select(Photo.id)
        .where(due(status, resend_seconds))
        .order_by(Photo.next_check_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("taken")  # a plain subquery may be run again for every row, and lock more than `limit`
    )
    return session.scalars(
        update(Photo)
        .where(Photo.id.in_(select(taken.c.id)))
        .values(sent_at=db_now())
        .returning(Photo.id)
        .execution_options(synchronize_session=False)
    ).all()


def _in(seconds: float) -> Any:
    return db_now() + timedelta(seconds=seconds)


def _lock_wanted_job(session: Session, claim: Claim) -> Job:
    job = jobs.lock(session, claim.job_id)
    if job is None or job.status not in ACTIVE_JOB:
        raise LeaseLost
    return job


def _end_attempt(session: Session, attempt: OpenAttempt, end: AttemptEnd) -> None:
    if not attempts.end(session, attempt.id, end):
        raise LeaseLost  # its prediction was found by somebody else; the whole step is taken back
    if end.outcome is AttemptOutcome.LOST:
        # A create call that a stopped process sends late would be paid for and known to nobody: look once more.
        attempts.close_later(session, attempt.id, LATE_LOOK_SECONDS)
