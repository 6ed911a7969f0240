"""The periodic look for what is to go: pictures whose time is over, accounts whose deletion was left half done."""

from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session, sessionmaker

from shared import deletion, former_addresses, retention
from shared.change_notes import ChangeNotes
from shared.settings import Settings
from shared.settlement_log import log_settlement

# What one transaction takes, and what one look takes at most: ten times what the provider's ceiling lets us make.
JOBS_PER_STEP = 50
STEPS_PER_LOOK = 10
DELETIONS_PER_LOOK = 10
SECONDS_PER_DAY = 86_400

log = structlog.get_logger()


def expire_pictures(sessions: sessionmaker[Session], notes: ChangeNotes, settings: Settings) -> None:
    """One look. Safe to run twice at once; what it does not come to is found by the next."""
    portraits = _in_steps(
        sessions,
        lambda session: retention.expire_portraits(session, settings.portrait_retention_seconds, JOBS_PER_STEP),
    )
    kept_seconds = settings.photo_retention_days * SECONDS_PER_DAY
    photos = _in_steps(sessions, lambda session: retention.expire_photos(session, kept_seconds, JOBS_PER_STEP))
    if portraits or photos:
        log.info("pictures.expired", portraits_of=portraits, photos_of=photos)
    _finish_deletions(sessions, notes)
    with sessions.begin() as session:
        former_addresses.forget_old(session)


def _in_steps(sessions: sessionmaker[Session], step: Callable[[Session], int]) -> int:
    done = 0
    for _ in range(STEPS_PER_LOOK):
        with sessions.begin() as session:
            count = step(session)
        done += count
        if count < JOBS_PER_STEP:
            break
    return done


def _finish_deletions(sessions: sessionmaker[Session], notes: ChangeNotes) -> None:
    with sessions() as session:
        unfinished = deletion.unfinished(session, DELETIONS_PER_LOOK)
    for deletion_id in unfinished:
        with sessions.begin() as session:
            done = deletion.delete_next_jobs(session, deletion_id)
        for job_id, settlement in done:
            if settlement is not None:
                log_settlement(settlement)
            notes.tell(job_id)
