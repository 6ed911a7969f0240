"""The use cases: delete a job, or an account, at its user's wish. The pictures go, what they cost stays in the ledger.

A job's row stays for the ledger, without anything personal; to its user there is nothing any more. A user's row stays
under a pseudonym. A record says what was deleted and when, and when the last object was surely gone.
"""

from collections.abc import Sequence
from uuid import UUID, uuid4

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from shared import former_addresses, jobs, loose_objects
from shared.database import db_now
from shared.deletion_models import Deletion, LooseObject
from shared.errors import NotFound
from shared.jobs import Settlement, portrait_key
from shared.models import Attempt, Job, JobEvent, Photo, User
from shared.states import ACTIVE_JOB, DeletionKind

JOBS_PER_STEP = 20


def delete_job(session: Session, user_id: UUID, job_id: UUID) -> Settlement | None:
    """Let go of the portrait, the photos and their thumbnails; a job in work is canceled first, which settles it.

    Joins the caller's transaction; after it no address of these pictures works, and workers delete them in seconds.

    Raises:
        NotFound: there is no such job of this user.
    """
    job = jobs.lock_own(session, user_id, job_id)
    deletion = Deletion(id=uuid4(), user_id=user_id, kind=DeletionKind.JOB, job_id=job_id)
    session.add(deletion)
    session.flush()
    return _delete(session, job, deletion.id)


def leave(session: Session, user_id: UUID, address_key: bytes | None) -> UUID:
    """Give the account up: from this transaction on nobody can sign in to it, and it takes no new job.

    Its address is replaced by a pseudonym that nothing leads back from. The id is the deletion's: its jobs are to be
    deleted by `delete_next_jobs` until there are none; what the caller leaves, the workers do.

    Raises:
        NotFound: it was given up before.
    """
    user = session.scalar(
        select(User).where(User.id == user_id).with_for_update().execution_options(populate_existing=True)
    )
    if user is None or user.deleted_at is not None:
        raise NotFound
    if address_key is not None:
        former_addresses.remember(session, user.email, address_key)
    session.execute(
        update(User)
        .where(User.id == user_id)
        .values(email=f"deleted-{uuid4().hex}", deleted_at=db_now())
        .execution_options(synchronize_session=False)
    )
    deletion = Deletion(id=uuid4(), user_id=user_id, kind=DeletionKind.ACCOUNT)
    session.add(deletion)
    session.flush()
    return deletion.id


def delete_next_jobs(session: Session, deletion_id: UUID) -> Sequence[tuple[UUID, Settlement | None]]:
    """Some of the jobs of an account that was given up, each with how it was settled just now; none when all are done.

    All rows of these jobs are locked before the first refund locks their user's: everybody locks in that order.
    """
    user_id = session.scalars(select(Deletion.user_id).where(Deletion.id == deletion_id)).one()
    left = session.scalars(
        select(Job)
        .where(Job.user_id == user_id, Job.deleted_at.is_(None))
        .order_by(Job.id)
        .limit(JOBS_PER_STEP)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    return [(job.id, _delete(session, job, deletion_id)) for job in left]


def unfinished(session: Session, limit: int) -> Sequence[UUID]:
    """Deletions of accounts that have jobs left, because whoever began them did not come to their end."""
    left = exists().where(Job.user_id == Deletion.user_id, Job.deleted_at.is_(None))
    return session.scalars(
        select(Deletion.id)
        .where(Deletion.gone_at.is_(None), Deletion.kind == DeletionKind.ACCOUNT, left)
        .order_by(Deletion.requested_at)
        .limit(limit)
    ).all()


def confirm(session: Session) -> Sequence[UUID]:
    """Write down which wishes have been fulfilled: no object is left that goes by them, and no job either."""
    return session.scalars(
        update(Deletion)
        .where(
            Deletion.gone_at.is_(None),
            ~exists().where(LooseObject.deletion_id == Deletion.id),
            or_(
                Deletion.kind == DeletionKind.JOB,
                ~exists().where(Job.user_id == Deletion.user_id, Job.deleted_at.is_(None)),
            ),
        )
        .values(gone_at=db_now())
        .returning(Deletion.id)
        .execution_options(synchronize_session=False)
    ).all()


def _delete(session: Session, job: Job, deletion_id: UUID) -> Settlement | None:
    """The caller holds the job's row lock."""
    settlement = jobs.cancel(session, job.user_id, job.id) if job.status in ACTIVE_JOB else None
    let_go = loose_objects.let_all_go(session, _kept_keys(session, job), deletion_id)
    # Where a worker may just be putting a photo of this job, or have put one before it died.
    on_their_way = [f"photos/{job.id}/", f"thumbnails/{job.id}/"]
    let_go += loose_objects.hurry(session, on_their_way, deletion_id)
    session.execute(
        update(Deletion)
        .where(Deletion.id == deletion_id)
        .values(objects=Deletion.objects + let_go)
        .execution_options(synchronize_session=False)
    )
    _forget(session, job.id)
    jobs.record_event(session, job.id, "job.deleted")
    return settlement


def _kept_keys(session: Session, job: Job) -> list[str]:
    rows = session.execute(select(Photo.object_key, Photo.thumbnail_key).where(Photo.job_id == job.id)).all()
    keys = [key for row in rows for key in row if key is not None]
    return keys if job.portrait_deleted_at is not None else [*keys, portrait_key(job.portrait_id)]


def _forget(session: Session, job_id: UUID) -> None:
    """Nothing that leads to a picture or a person stays in the job's rows."""
    photos_of_it = select(Photo.id).where(Photo.job_id == job_id)
    session.execute(
        update(Photo)
        .where(Photo.job_id == job_id)
        .values(object_key=None, thumbnail_key=None, sha256=None, error_detail=None, deleted_at=db_now())
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Attempt)
        .where(Attempt.photo_id.in_(photos_of_it))
        .values(error_detail=None)
        .execution_options(synchronize_session=False)
    )
    # What ops wrote when they repeated the job may name somebody.
    session.execute(
        update(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.data.has_key("reason"))
        .values(data=JobEvent.data.op("-", return_type=JSONB())("reason"))
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(
            deleted_at=db_now(),
            photos_deleted_at=func.coalesce(Job.photos_deleted_at, db_now()),
            portrait_deleted_at=func.coalesce(Job.portrait_deleted_at, db_now()),
            portrait_id=uuid4(),  # so that none of its old addresses is left
            role=None,
            error_detail=None,
            idempotency_key=None,
            request_fingerprint="",
        )
        .execution_options(synchronize_session=False)
    )
