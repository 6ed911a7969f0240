"""The slow look over the whole storage: objects that no row promises go, rows whose object is lost say so (I6).

Every few minutes all keys are listed, in stretches; the place is kept in the database, so any process goes on where
another one stopped. What it finds wrong is an accident, never the rule. So where much of a stretch is wrong, something
else is: the wrong bucket, an old backup of the database. Then nothing is touched, and the log says so.
"""

import time
from datetime import UTC, datetime

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from shared import mending
from shared.audit_objects import Stretch, look_at_stretch
from shared.storage import ObjectStorage

OBJECTS_PER_STRETCH = 5000
STEP_SECONDS = 10.0
# By now whoever put an object has written its row: writers are given up by then (shared/loose_objects.py).
ORPHAN_SECONDS = 600
# More than this of a stretch, and more than this many, is no accident.
ACCIDENTS_SHARE = 0.1
ACCIDENTS = 50

log = structlog.get_logger()


class Mending:
    """The use case, with all that it needs. Safe to run many times at once: one of them works."""

    def __init__(self, engine: Engine, storage: ObjectStorage) -> None:
        self._engine = engine
        self._storage = storage

    def go_on(self) -> None:
        """Some more stretches of the look that goes on, or of a new one when it is time. Raises StorageUnavailable."""
        until = time.monotonic() + STEP_SECONDS
        while True:
            with Session(self._engine) as session, session.begin():
                after = mending.take_turn(session)
            if after is None:
                return
            stretch = look_at_stretch(self._engine, self._storage, after, OBJECTS_PER_STRETCH)
            self._mend(stretch)
            with Session(self._engine) as session, session.begin():
                mending.note(session, after, stretch.until)
            if stretch.until is None or time.monotonic() >= until:
                return

    def _mend(self, stretch: Stretch) -> None:
        for offence in stretch.others:
            log.error("object.wrong", table=offence.table, id=offence.id, says=offence.says)
        # An empty storage is another storage, however few objects it should hold.
        elsewhere = bool(stretch.missing) and not stretch.objects
        if elsewhere or _is_no_accident(len(stretch.missing), stretch.promises):
            log.error("objects.missing", count=len(stretch.missing), promised=stretch.promises, done="nothing")
        else:
            self._write_off(stretch)
        now = datetime.now(UTC)
        orphans = [info.key for info in stretch.orphans if (now - info.modified_at).total_seconds() > ORPHAN_SECONDS]
        if _is_no_accident(len(orphans), stretch.objects):
            log.error("objects.unknown", count=len(orphans), listed=stretch.objects, done="nothing")
        elif orphans:
            with Session(self._engine) as session, session.begin():
                mending.adopt(session, orphans)
            log.warning("objects.orphaned", count=len(orphans))

    def _write_off(self, stretch: Stretch) -> None:
        for key, rows in stretch.missing.items():
            for table, row_id in rows:
                with Session(self._engine) as session, session.begin():
                    lost = mending.write_off(session, key, table, row_id)
                if lost:
                    log.error("object.lost", table=table, id=row_id)


def _is_no_accident(count: int, of: int) -> bool:
    return count > ACCIDENTS and count > of * ACCIDENTS_SHARE
