"""Pictures whose time is over: portraits shortly after the job's end, photos a while later.

Each look takes the longest due of what a partial index holds, so it costs the same however long the history is. It
may run twice at once: a job's row goes to one of them. The objects go through `shared/loose_objects.py`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import Session

from shared import loose_objects
from shared.database import db_now
from shared.jobs import portrait_key
from shared.models import Job, JobEvent, Photo


def expire_portraits(session: Session, kept_seconds: float, limit: int) -> int:
    """Let go of the portraits of jobs that ended `kept_seconds` ago; of how many jobs, `limit` at most."""
    due = _take_due(session, Job.portrait_deleted_at.is_(None), kept_seconds, limit)
    if not due:
        return 0
    rows = session.scalars(select(Job.portrait_id).where(Job.id.in_(due))).all()
    loose_objects.let_all_go(session, [portrait_key(portrait_id) for portrait_id in rows])
    _change(session, due, portrait_deleted_at=db_now())
    _tell(session, due, "portrait.expired")
    return len(due)


def expire_photos(session: Session, kept_seconds: float, limit: int) -> int:
    """The same for photos and thumbnails; what told two requests apart goes with them."""
    due = _take_due(session, Job.photos_deleted_at.is_(None), kept_seconds, limit)
    if not due:
        return 0
    kept = select(Photo.object_key, Photo.thumbnail_key).where(Photo.job_id.in_(due), Photo.object_key.is_not(None))
    rows = session.execute(kept).all()
    loose_objects.let_all_go(session, [key for row in rows for key in row if key is not None])
    session.execute(
        update(Photo)
        .where(Photo.job_id.in_(due), Photo.object_key.is_not(None))
        .values(object_key=None, thumbnail_key=None, sha256=None, deleted_at=db_now())
        .execution_options(synchronize_session=False)
    )
    _change(session, due, photos_deleted_at=db_now(), idempotency_key=None, request_fingerprint="")
    _tell(session, due, "photos.expired")
    return len(due)


def _take_due(session: Session, kept: ColumnElement[bool], kept_seconds: float, limit: int) -> Sequence[UUID]:
    return session.scalars(
        select(Job.id)
        .where(kept, Job.completed_at.is_not(None), Job.completed_at <= db_now() - timedelta(seconds=kept_seconds))
        .order_by(Job.completed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()


def _change(session: Session, job_ids: Sequence[UUID], **values: Any) -> None:
    session.execute(
        update(Job).where(Job.id.in_(job_ids)).values(**values).execution_options(synchronize_session=False)
    )


def _tell(session: Session, job_ids: Sequence[UUID], name: str) -> None:
    session.execute(insert(JobEvent).values([{"job_id": job_id, "name": name} for job_id in job_ids]))
