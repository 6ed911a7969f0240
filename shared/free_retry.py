"""A failed job once more, at our cost: the use case behind `cuggu jobs retry` and the staff's button.

The new job is like any other and is charged; a grant in the same transaction pays for it. So every promise about
credits holds for it without an exception, and the ledger says why it cost nothing. The grant's reference names the
failed job and is unique: a job is retried once, whoever asks and however often.
"""

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from shared import credits, jobs, loose_objects, staff_actions
from shared.errors import GrantConflict, Paused
from shared.granting import RETRY_PREFIX
from shared.models import Job, LedgerEntry
from shared.queue import JobQueue
from shared.spending import Spending
from shared.staff_actions import Actor
from shared.states import JobStatus
from shared.storage import ObjectNotFound, ObjectStorage

_RETRIED_BEFORE = "Job {0} has been retried before; `cuggu jobs show {0}` tells more."


class NotRetried(Exception):
    """The job cannot be retried, and nothing was changed; the message is a sentence for ops that says why."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The new job. `told` is whether the queue knows of it already; the sweep finds it otherwise."""

    job_id: UUID
    told: bool


def reference_of(job_id: UUID) -> str:
    """What the grant that pays for the job's retry is known by."""
    return f"{RETRY_PREFIX}{job_id}"


def retry_free_of_charge(
    engine: Engine,
    storage: ObjectStorage,
    queue: JobQueue,
    job_id: UUID,
    reason: str,
    *,
    actor: Actor,
    spending: Spending,
    deadline_seconds: int,
    delivery_wanted: bool,
) -> Retried:
    """Make a new job like this one, for the same user; the reason stands in both jobs' stories.

    Raises:
        NotRetried: there is no such job, it did not fail, was retried before, or its portrait is gone; or no new
            jobs are taken now.
        StorageUnavailable: the portrait could not be copied; nothing was changed.
    """
    with Session(engine) as session:
        failed = _retriable(session, session.get(Job, job_id))
        portrait_id, user_id = failed.portrait_id, failed.user_id
        _refuse_if_paused(session, spending)
    try:
        portrait = storage.get(jobs.portrait_key(portrait_id))
    except ObjectNotFound:
        raise NotRetried(f"The portrait of job {job_id} is not in the storage.") from None
    new_portrait_id = uuid4()
    key = jobs.portrait_key(new_portrait_id)
    with Session(engine) as session, session.begin():
        loose_objects.expect(session, key)
    storage.put(key, portrait.body, portrait.content_type)
    try:
        with Session(engine) as session, session.begin():
            _refuse_if_paused(session, spending)
            new_id, photo_ids = _accept(session, job_id, new_portrait_id, reason, deadline_seconds, delivery_wanted)
            told = {"new_job_id": str(new_id), "reason": reason}
            staff_actions.record(session, actor, "job.retried", told, user_id=user_id, job_id=job_id)
    except NotRetried:
        with Session(engine) as session, session.begin():
            loose_objects.let_go(session, key)
        raise
    return Retried(new_id, queue.start_photos(photo_ids))


def _retriable(session: Session, job: Job | None) -> Job:
    if job is None:
        raise NotRetried("There is no such job.")
    if job.status is not JobStatus.FAILED:
        raise NotRetried(f"Job {job.id} is {job.status}; only a FAILED job is retried.")
    if session.scalar(select(LedgerEntry.id).where(LedgerEntry.reference == reference_of(job.id))) is not None:
        raise NotRetried(_RETRIED_BEFORE.format(job.id))
    if job.portrait_deleted_at is not None:
        raise NotRetried(f"The portrait of job {job.id} was deleted at {job.portrait_deleted_at:%Y-%m-%d %H:%M} UTC.")
    return job


def _refuse_if_paused(session: Session, spending: Spending) -> None:
    try:
        spending.refuse_if_paused(session)
    except Paused:
        raise NotRetried("No new jobs are taken now: they are paused, or the month's budget is spent.") from None


def _accept(
    session: Session, job_id: UUID, portrait_id: UUID, reason: str, deadline_seconds: int, delivery_wanted: bool
) -> tuple[UUID, tuple[UUID, ...]]:
    # Under the lock nobody else retries the job, and nobody deletes the portrait that was just copied.
    job = _retriable(session, jobs.lock(session, job_id))
    reference = reference_of(job_id)
    try:
        _, granted = credits.grant(session, job.user_id, credits.JOB_COST_CREDITS, reference)
    except GrantConflict:
        granted = False
    if not granted:  # by hand, a moment ago: without a grant of its own the new job would not be free
        raise NotRetried(_RETRIED_BEFORE.format(job_id))
    new = jobs.NewJob(
        id=uuid4(),
        user_id=job.user_id,
        style=job.style,
        role=job.role,
        portrait_id=portrait_id,
        idempotency_key=None,
        request_fingerprint=job.request_fingerprint,
        deadline_seconds=deadline_seconds,
        delivery_wanted=delivery_wanted,
    )
    accepted = jobs.accept(session, new)
    if accepted is None:
        raise RuntimeError("a job without an Idempotency-Key met another")
    jobs.record_event(session, new.id, "credit.granted", reference=reference, reason=reason)
    jobs.record_event(session, job_id, "job.retried", new_job_id=str(new.id), reason=reason)
    return new.id, accepted.photo_ids
