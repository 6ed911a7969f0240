"""The books of the look over the whole storage: whose turn it is, how far it has come, and what was found wrong."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import case, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared import jobs, loose_objects
from shared.database import db_now
from shared.deletion_models import StorageLook
from shared.jobs import portrait_key
from shared.models import Job, Photo

# From one look's beginning to the next: with the age at which an object is an orphan it stays below I6's 15 minutes.
EVERY_SECONDS = 240
# A stretch takes a second or two; whoever takes longer has died, and another goes on.
TURN_SECONDS = 120


def take_turn(session: Session) -> str | None:
    """The key after which to look on, for `TURN_SECONDS`; None if somebody else is at it, or it is not time yet.

    A look that has ended begins again from the first key.
    """
    session.execute(insert(StorageLook).values(id=1).on_conflict_do_nothing())
    ended = StorageLook.ended_at.is_not(None)
    row = session.execute(
        update(StorageLook)
        .where(
            StorageLook.busy_until <= db_now(),
            or_(~ended, StorageLook.begun_at <= db_now() - timedelta(seconds=EVERY_SECONDS)),
        )
        .values(
            busy_until=db_now() + timedelta(seconds=TURN_SECONDS),
            position=case((ended, literal("")), else_=StorageLook.position),
            begun_at=case((ended, db_now()), else_=StorageLook.begun_at),
            ended_at=null(),
        )
        .returning(StorageLook.position)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None else row.position


def note(session: Session, after: str, until: str | None) -> None:
    """The stretch after `after` has been looked at, to `until` or to the end; nothing if another has gone on since."""
    over = until is None
    session.execute(
        update(StorageLook)
        .where(StorageLook.position == after, StorageLook.ended_at.is_(None))
        .values(
            position="" if over else until,
            busy_until=db_now(),
            ended_at=db_now() if over else null(),
        )
        .execution_options(synchronize_session=False)
    )


def adopt(session: Session, object_keys: Iterable[str]) -> None:
    """No row promises these objects, and none will: have them deleted."""
    loose_objects.adopt(session, object_keys)


def write_off(session: Session, key: str, table: str, row_id: str) -> bool:
    """The row stops promising the object, which is lost; whether it did promise it until now.

    The portrait of a job in work is left alone: its steps find out themselves, and the credit comes back. A photo is
    written off whatever its job does. It stays STORED, because it was (I7), and its job may still end COMPLETED.
    """
    return (
        _write_off_portrait(session, key, UUID(row_id)) if table == "jobs" else _write_off_photo(session, key, row_id)
    )


def _write_off_portrait(session: Session, key: str, job_id: UUID) -> bool:
    job = jobs.lock(session, job_id)
    if job is None or job.completed_at is None or job.portrait_deleted_at is not None:
        return False
    if portrait_key(job.portrait_id) != key:
        return False
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(portrait_deleted_at=db_now())
        .execution_options(synchronize_session=False)
    )
    jobs.record_event(session, job_id, "object.lost", what="portrait")
    return True


def _write_off_photo(session: Session, key: str, photo_id: str) -> bool:
    job_id = session.scalar(select(Photo.job_id).where(Photo.id == UUID(photo_id)))
    job = None if job_id is None else jobs.lock(session, job_id)
    photo = session.get(Photo, UUID(photo_id), populate_existing=True)
    if job is None or photo is None:
        return False
    if photo.thumbnail_key == key:
        changed: dict[str, Any] = {"thumbnail_key": None}
        what = "thumbnail"
    elif photo.object_key == key:
        if photo.thumbnail_key is not None:
            loose_objects.let_go(session, photo.thumbnail_key)
        changed = {"object_key": None, "thumbnail_key": None, "sha256": None, "deleted_at": db_now()}
        what = "photo"
    else:
        return False
    session.execute(
        update(Photo).where(Photo.id == photo.id).values(**changed).execution_options(synchronize_session=False)
    )
    jobs.record_event(session, job.id, "object.lost", photo.id, what=what, slot=photo.slot)
    return True
