"""The use case: delete a job at its user's wish. Its pictures go, what it cost stays in the ledger.

The row stays too, and its story, for the ledger's and for our own questions; to its user there is nothing any more.
"""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shared import jobs, loose_objects
from shared.database import db_now
from shared.jobs import Settlement, portrait_key
from shared.models import ACTIVE_JOB, Job, Photo


def delete_job(session: Session, user_id: UUID, job_id: UUID) -> Settlement | None:
    """Let go of the portrait, the photos and their thumbnails; a job in work is canceled first, which settles it.

    Joins the caller's transaction; after it no address of these pictures works, and workers delete them in seconds.

    Raises:
        NotFound: there is no such job of this user.
    """
    job = jobs.lock_own(session, user_id, job_id)
    settlement = jobs.cancel(session, user_id, job_id) if job.status in ACTIVE_JOB else None
    keys = session.execute(select(Photo.object_key, Photo.thumbnail_key).where(Photo.job_id == job_id)).all()
    for key in (key for row in keys for key in row if key is not None):
        loose_objects.let_go(session, key)
    if job.portrait_deleted_at is None:
        loose_objects.let_go(session, portrait_key(job.portrait_id))
    session.execute(
        update(Photo)
        .where(Photo.job_id == job_id)
        .values(object_key=None, thumbnail_key=None, deleted_at=db_now())
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(deleted_at=db_now(), portrait_deleted_at=func.coalesce(Job.portrait_deleted_at, db_now()))
        .execution_options(synchronize_session=False)
    )
    jobs.record_event(session, job_id, "job.deleted")
    return settlement
