"""`python -m worker.beat`: sends, again and again, the tasks that look after what is due.

It runs once. Twice is no harm, and for a while not at all is none either: every task finds what waited for it.
"""

if __name__ == "__main__":
    import shared.lean_start  # noqa: F401 - first

from celery import Celery
from celery.signals import after_task_publish

from shared.queue import DELETE_LOOSE_OBJECTS, EXPIRE_PICTURES, MEND_STORAGE, SWEEP
from shared.queue_figures import SweepNotes
from shared.settings import Settings, settings_or_exit

SWEEP_INTERVAL_SECONDS = 1.0
DELETE_INTERVAL_SECONDS = 10.0
EXPIRE_INTERVAL_SECONDS = 10.0
MEND_INTERVAL_SECONDS = 15.0  # of its steps; worker/mending.py says how often the whole storage is looked at
# While no worker listens, sweeps must not pile up for ever; while all are busy, some must wait their turn.
EXPIRES_SECONDS = 30.0

SCHEDULE_SECONDS = {
    SWEEP: SWEEP_INTERVAL_SECONDS,
    DELETE_LOOSE_OBJECTS: DELETE_INTERVAL_SECONDS,
    EXPIRE_PICTURES: EXPIRE_INTERVAL_SECONDS,
    MEND_STORAGE: MEND_INTERVAL_SECONDS,
}


def main() -> None:
    settings = settings_or_exit("beat")
    from worker.main import app  # noqa: PLC0415 - reads the settings

    schedule(app)
    _note_what_is_sent(settings)
    app.Beat(quiet=True).run()


def schedule(app: Celery) -> None:
    """Give the app its timetable."""
    app.conf.update(
        # In memory: a schedule of one look a second has nothing to remember.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            task: {"task": task, "schedule": seconds, "options": {"expires": EXPIRES_SECONDS}}
            for task, seconds in SCHEDULE_SECONDS.items()
        },
    )


def _note_what_is_sent(settings: Settings) -> None:
    """Beat has no ear to be asked by; that it sends is how one knows that it lives."""
    notes = SweepNotes(settings.redis_url)

    def sent(**_: object) -> None:
        notes.note("sent")

    after_task_publish.connect(sent, sender=SWEEP, weak=False)


if __name__ == "__main__":
    main()
