"""The periodic look for what is due: unsent photos, due checks, ended leases, passed deadlines, unclosed attempts.

It finds what messages lost. Safe to run twice at once, and cheap however long the history is: it reads partial
indexes that hold only what is in work.
"""

import structlog
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, jobs, photos
from shared.events import ChangeNotes
from shared.models import PhotoStatus
from shared.queue import COLLECT_QUEUE, START_QUEUE, JobQueue
from shared.settings import Settings
from worker.generation import log_settlement

# A queue this long keeps every worker busy until the next sweep; sending more would only pile up doubles of
# messages that are waiting their turn.
QUEUE_LENGTH_MAX = 200
JOBS_PER_SWEEP = 50
ATTEMPTS_PER_SWEEP = 50
# Longer than one try at closing takes.
CLOSE_RESEND_SECONDS = 30.0

log = structlog.get_logger()


def sweep(sessions: sessionmaker[Session], queue: JobQueue, notes: ChangeNotes, settings: Settings) -> None:
    """One look; what it finds is sent to the queues, and overdue jobs are settled here and now."""
    with sessions() as session:
        overdue = jobs.overdue(session, JOBS_PER_SWEEP)
    for job_id in overdue:
        with sessions.begin() as session:
            settlement = jobs.settle_overdue(session, job_id)
        if settlement is not None:
            log_settlement(settlement)
            notes.tell(job_id)
    for status, name, send in (
        (PhotoStatus.PENDING, START_QUEUE, queue.start_photos),
        (PhotoStatus.GENERATING, COLLECT_QUEUE, queue.collect_photos),
    ):
        length = queue.length(name)
        if length is None or length >= QUEUE_LENGTH_MAX:
            continue
        with sessions.begin() as session:
            due = photos.take_due(session, status, QUEUE_LENGTH_MAX - length, settings.resend_seconds)
        if due:
            log.debug("photos.sent", queue=name, count=len(due))
            send(due)
    with sessions.begin() as session:
        unclosed = attempts.take_unclosed(session, ATTEMPTS_PER_SWEEP, CLOSE_RESEND_SECONDS)
    queue.close_attempts(unclosed)
