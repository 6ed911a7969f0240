"""The periodic look for what is due: unsent photos, due checks, ended leases, passed deadlines, unclosed attempts,
deliveries.

It finds what messages lost. Safe to run twice at once, and cheap however long the history is: it reads partial
indexes that hold only what is in work.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from sqlalchemy import Row, exists, select
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, deletion, deliveries, jobs, loose_objects, photos
from shared.change_notes import ChangeNotes
from shared.database import PASSING_FAULTS
from shared.queue import COLLECT_QUEUE, START_QUEUE, JobQueue
from shared.settings import Settings
from shared.settlement_log import log_settlement
from shared.states import PhotoStatus
from shared.storage import ObjectStorage

# A queue this long keeps every worker busy until the next sweep; sending more would only pile up doubles of
# messages that are waiting their turn.
QUEUE_LENGTH_MAX = 200
JOBS_PER_SWEEP = 50
ATTEMPTS_PER_SWEEP = 50
# Where versions are kept each object is a call of its own; a batch must end before its keys come again.
OBJECTS_PER_BATCH = 200
# What one look deletes is bounded by time: a whole account is gone within the minute, and others have their turn.
DELETING_BUDGET_SECONDS = 20.0
# Half the threads of one worker process, if the site hangs. Answered within a tenth of a second: 8 jobs' ends a second.
DELIVERIES_AT_ONCE = 8
# Longer than one try at closing takes.
CLOSE_RESEND_SECONDS = 30.0

log = structlog.get_logger()


def sweep(sessions: sessionmaker[Session], queue: JobQueue, notes: ChangeNotes, settings: Settings) -> None:
    """One look; what it finds is sent to the queues, and overdue jobs are settled here and now.

    What goes wrong with one of these is logged and leaves the others alone: the next sweep tries again.
    """
    with sessions() as session:
        overdue = jobs.overdue(session, JOBS_PER_SWEEP)
    for job_id in overdue:
        with _going_on(f"job {job_id}"):
            _settle_overdue(sessions, notes, job_id)
    with sessions() as session:
        to_start, to_collect, to_close, to_deliver = _what_is_due(session, settings)
    if to_start:
        with _going_on("start"):
            _send_due(sessions, queue, settings, PhotoStatus.PENDING, START_QUEUE, queue.start_photos)
    if to_collect:
        with _going_on("collect"):
            _send_due(sessions, queue, settings, PhotoStatus.GENERATING, COLLECT_QUEUE, queue.collect_photos)
    if to_close:
        with _going_on("unclosed attempts"):
            with sessions.begin() as session:
                unclosed = attempts.take_unclosed(session, ATTEMPTS_PER_SWEEP, CLOSE_RESEND_SECONDS)
            queue.close_attempts(unclosed)
    if to_deliver and settings.site_webhook_url is not None:
        with _going_on("deliveries"):
            with sessions.begin() as session:
                due = deliveries.take_due(session, DELIVERIES_AT_ONCE, settings.resend_seconds)
            queue.deliver_webhooks(due)


def delete_loose_objects(sessions: sessionmaker[Session], storage: ObjectStorage) -> None:
    """Delete from the storage what no row promises, and write down which users' wishes that has fulfilled.

    Raises StorageUnavailable; the keys then come again.
    """
    until = time.monotonic() + DELETING_BUDGET_SECONDS
    while time.monotonic() < until:
        with sessions.begin() as session:
            keys = loose_objects.take_due(session, OBJECTS_PER_BATCH)
        if keys:
            storage.delete(keys)
            with sessions.begin() as session:
                loose_objects.forget(session, keys)
            log.info("objects.deleted", count=len(keys))
        if len(keys) < OBJECTS_PER_BATCH:
            break
    with sessions.begin() as session:
        fulfilled = deletion.confirm(session)
    for deletion_id in fulfilled:
        log.info("deletion.confirmed", deletion_id=str(deletion_id))


def _what_is_due(session: Session, settings: Settings) -> Row[bool, bool, bool, bool]:
    """Whether there are photos to start, photos to collect, attempts to close, deliveries to make.

    One read for all: of the looks of a day nearly all find nothing, and a transaction that writes costs more.
    """
    return session.execute(
        select(
            exists().where(photos.due(PhotoStatus.PENDING, settings.resend_seconds)),
            exists().where(photos.due(PhotoStatus.GENERATING, settings.resend_seconds)),
            exists().where(attempts.unclosed()),
            exists().where(deliveries.due(settings.resend_seconds)),
        )
    ).one()


def _settle_overdue(sessions: sessionmaker[Session], notes: ChangeNotes, job_id: UUID) -> None:
    with sessions.begin() as session:
        settlement = jobs.settle_overdue(session, job_id)
    if settlement is not None:
        with structlog.contextvars.bound_contextvars(request_id=settlement.request_id):
            log_settlement(settlement)
        notes.tell(job_id)


def _send_due(
    sessions: sessionmaker[Session],
    queue: JobQueue,
    settings: Settings,
    status: PhotoStatus,
    name: str,
    send: Callable[[Iterable[UUID]], bool],
) -> None:
    length = queue.length(name)
    if length is None or length >= QUEUE_LENGTH_MAX:
        return
    with sessions.begin() as session:
        due = photos.take_due(session, status, QUEUE_LENGTH_MAX - length, settings.resend_seconds)
    if due:
        log.debug("photos.sent", queue=name, count=len(due))
        send(due)


@contextmanager
def _going_on(section: str) -> Iterator[None]:
    try:
        yield
    except PASSING_FAULTS as error:
        log.warning("sweep.section_postponed", section=section, error=str(getattr(error, "orig", None) or error))
    except Exception:
        log.exception("sweep.section_failed", section=section)
