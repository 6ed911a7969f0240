"""The only writer of job status; `shared/photos.py` is its other half and writes photos and attempts.

Every function joins the caller's transaction. Whoever ends something locks the job's row first and photos after,
so no two of them can deadlock, and one settlement is all there can be (I3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared import credits, deliveries, loose_objects
from shared.consent import Consent
from shared.database import db_now
from shared.errors import JobEnded, NotFound, PhotoNotStored
from shared.models import Attempt, Job, JobEvent, Photo
from shared.states import ACTIVE_JOB, ACTIVE_PHOTO, AttemptOutcome, JobStatus, PhotoStatus

PHOTOS_PER_JOB = 4

# What every step asks is put together once; for each anew it took as long as asking (measured).
_LOCK = select(Job).where(Job.id == bindparam("of_job")).with_for_update().execution_options(populate_existing=True)
_COUNT_PHOTOS = select(Photo.status, func.count()).where(Photo.job_id == bindparam("of_job")).group_by(Photo.status)
_EVENT = insert(JobEvent)


@dataclass(frozen=True, slots=True)
class NewJob:
    id: UUID
    user_id: UUID
    style: str
    role: str | None
    portrait_id: UUID
    idempotency_key: str | None
    request_fingerprint: str
    deadline_seconds: int
    delivery_wanted: bool  # whether the site is told of the end
    request_id: str | None = None
    traceparent: str | None = None
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    photo_ids: tuple[UUID, ...]
    credits_left: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a job ended. `refunded_to` is the new balance where the credit went back, else None."""

    job_id: UUID
    status: JobStatus
    error_code: str | None
    stored: int
    refunded_to: int | None
    request_id: str | None  # of the job's submission


def accept(session: Session, new: NewJob) -> Accepted | None:
    """Charge the credit and write the job with its four photos; None if its Idempotency-Key was there first.

    Raises:
        InsufficientCredits: nothing was written, once the caller rolls back.
    """
    inserted = session.scalar(
        upsert(Job)
        .values(
            id=new.id,
            user_id=new.user_id,
            style=new.style,
            role=new.role,
            portrait_id=new.portrait_id,
            idempotency_key=new.idempotency_key,
            request_fingerprint=new.request_fingerprint,
            delivery_wanted=new.delivery_wanted,
            request_id=new.request_id,
            traceparent=new.traceparent,
            consent_version=new.consent and new.consent.version,
            consent_language=new.consent and new.consent.language,
            consented_at=new.consent and db_now(),
            deadline_at=db_now() + timedelta(seconds=new.deadline_seconds),
        )
        .on_conflict_do_nothing(index_elements=[Job.user_id, Job.idempotency_key])
        .returning(Job.id)
    )
    if inserted is None:
        return None
    credits_left = credits.charge(session, new.user_id, new.id)
    loose_objects.keep(session, portrait_key(new.portrait_id))
    inserted_photos = session.execute(
        insert(Photo)
        # The message is about to be sent: the sweep need not send it too.
        .values(job_id=new.id, sent_at=db_now())
        .returning(Photo.slot, Photo.id),
        [{"slot": slot} for slot in range(PHOTOS_PER_JOB)],
    )
    photo_ids = [photo_id for _, photo_id in sorted((slot, photo_id) for slot, photo_id in inserted_photos)]
    record_event(session, new.id, "job.accepted", style=new.style, credits_left=credits_left)
    return Accepted(tuple(photo_ids), credits_left)


def portrait_key(portrait_id: UUID) -> str:
    """Where a portrait lies."""
    return f"portraits/{portrait_id}"


def record_event(session: Session, job_id: UUID, name: str, photo_id: UUID | None = None, **data: Any) -> None:
    """Add to the job's story; the caller holds the job's row lock, or has just inserted the job."""
    session.execute(_EVENT, {"job_id": job_id, "photo_id": photo_id, "name": name, "data": data})


def lock(session: Session, job_id: UUID) -> Job | None:
    """The job as it is now, and nobody else's to change until this transaction ends."""
    return session.scalar(_LOCK, {"of_job": job_id})


def lock_own(session: Session, user_id: UUID, job_id: UUID) -> Job:
    """The same for its user. Raises NotFound for another's job, and for one that was deleted."""
    job = lock(session, job_id)
    if job is None or job.user_id != user_id or job.deleted_at is not None:
        raise NotFound
    return job


def begin_processing(session: Session, job: Job) -> None:
    """QUEUED -> PROCESSING when the first photo starts; later photos find it done. The caller holds its row lock."""
    if job.status is JobStatus.QUEUED:
        session.execute(
            update(Job)
            .where(Job.id == job.id, Job.status == JobStatus.QUEUED)
            .values(status=JobStatus.PROCESSING)
            .execution_options(synchronize_session=False)
        )


def settle_if_ended(session: Session, job: Job) -> Settlement | None:
    """Decide the job if its last photo has ended; the caller holds its row lock. None while photos are in work."""
    counts = _photo_counts(session, job.id)
    if any(counts.get(status) for status in ACTIVE_PHOTO):
        return None
    stored = counts.get(PhotoStatus.STORED, 0)
    if stored == PHOTOS_PER_JOB:
        return _settle(session, job, JobStatus.COMPLETED, stored=stored, keep_credit=True)
    status = JobStatus.PARTIAL if stored else JobStatus.FAILED
    code, detail = session.execute(
        select(Photo.error_code, Photo.error_detail)
        .where(Photo.job_id == job.id, Photo.status == PhotoStatus.FAILED)
        .order_by(Photo.slot)
        .limit(1)
    ).one()
    return _settle(session, job, status, stored=stored, keep_credit=False, error_code=code, error_detail=detail)


def settle_overdue(session: Session, job_id: UUID) -> Settlement | None:
    """Decide a job whose deadline has passed from what it has.

    None if it was decided already, is not overdue, or is just being changed by somebody else: then its turn comes
    with the next sweep, and the other overdue jobs do not wait for it.
    """
    job = session.scalar(
        select(Job)
        .where(Job.id == job_id, Job.status.in_(ACTIVE_JOB), Job.deadline_at <= db_now())
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if job is None:
        return None
    _end_photos(session, job_id, PhotoStatus.FAILED, "deadline_exceeded")
    # A job whose workers never came is still QUEUED; the arrows lead out of PROCESSING only.
    begin_processing(session, job)
    session.refresh(job)
    return settle_if_ended(session, job)


def cancel(session: Session, user_id: UUID, job_id: UUID) -> Settlement:
    """End the job at its user's wish. Photos that are stored stay theirs, and then the credit is kept.

    Raises:
        NotFound: there is no such job of this user.
        JobEnded: it was decided before.
    """
    job = lock_own(session, user_id, job_id)
    if job.status not in ACTIVE_JOB:
        raise JobEnded(job_status=job.status.value)
    _end_photos(session, job_id, PhotoStatus.CANCELED, "canceled")
    stored = _photo_counts(session, job_id).get(PhotoStatus.STORED, 0)
    return _settle(session, job, JobStatus.CANCELED, stored=stored, keep_credit=stored > 0, error_code="canceled")


def select_photo(session: Session, user_id: UUID, job_id: UUID, photo_id: UUID) -> None:
    """Remember the couple's choice.

    Raises:
        NotFound: no such job of this user, or no such photo of this job.
        PhotoNotStored: the photo is not there to be chosen.
    """
    job = lock_own(session, user_id, job_id)
    photo = session.execute(
        select(Photo.status, Photo.object_key).where(Photo.id == photo_id, Photo.job_id == job_id)
    ).one_or_none()
    if photo is None:
        raise NotFound
    if photo.status is not PhotoStatus.STORED or photo.object_key is None:
        raise PhotoNotStored
    job.selected_photo_id = photo_id
    record_event(session, job_id, "photo.selected", photo_id)


def overdue(session: Session, limit: int) -> Sequence[UUID]:
    """Jobs to be decided because their deadline has passed."""
    return session.scalars(
        select(Job.id)
        .where(Job.status.in_(ACTIVE_JOB), Job.deadline_at <= db_now())
        .order_by(Job.deadline_at)
        .limit(limit)
    ).all()


def _photo_counts(session: Session, job_id: UUID) -> Mapping[PhotoStatus, int]:
    rows = session.execute(_COUNT_PHOTOS, {"of_job": job_id})
    return {status: count for status, count in rows}  # noqa: C416 - dict() does not see the rows as pairs


def _end_photos(session: Session, job_id: UUID, status: PhotoStatus, error_code: str) -> None:
    """End all that is in work. Taking the lease away fences off whoever holds one."""
    ended = session.scalars(
        update(Photo)
        .where(Photo.job_id == job_id, Photo.status.in_(ACTIVE_PHOTO))
        .values(status=status, error_code=error_code, lease_token=None)
        .returning(Photo.id)
        .execution_options(synchronize_session=False)
    ).all()
    session.execute(
        update(Attempt)
        .where(Attempt.photo_id.in_(ended), Attempt.outcome == AttemptOutcome.OPEN)
        .values(close_due_at=db_now())
        .execution_options(synchronize_session=False)
    )


def _settle(
    session: Session,
    job: Job,
    status: JobStatus,
    *,
    stored: int,
    keep_credit: bool,
    error_code: str | None = None,
    error_detail: str | None = None,
) -> Settlement:
    decided = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.status.in_(ACTIVE_JOB))
        .values(status=status, error_code=error_code, error_detail=error_detail, completed_at=db_now())
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if decided is None:
        raise RuntimeError(f"job {job.id} was settled before, although its row was locked")
    refunded_to = None if keep_credit else credits.refund(session, job.user_id, job.id)
    record_event(
        session, job.id, f"job.{status.lower()}", error_code=error_code, stored=stored, refunded=not keep_credit
    )
    if job.delivery_wanted:
        deliveries.begin(session, job.id)
    return Settlement(job.id, status, error_code, stored, refunded_to, job.request_id)
