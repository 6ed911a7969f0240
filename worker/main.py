"""The worker's entry point: `celery -A worker.main worker -P threads`, and `celery -A worker.main beat` beside it."""

from importlib import import_module

from celery.signals import after_task_publish, beat_init, celeryd_init, setup_logging

from shared.queue import (
    DELETE_LOOSE_OBJECTS,
    EXPIRE_PICTURES,
    MEND_STORAGE,
    SWEEP,
    WORKER_TIMEOUT_SECONDS,
    make_celery,
)
from shared.queue_figures import SweepNotes
from shared.settings import get_settings
from shared.telemetry import configure_logging

SWEEP_INTERVAL_SECONDS = 1.0
DELETE_INTERVAL_SECONDS = 10.0
EXPIRE_INTERVAL_SECONDS = 10.0
MEND_INTERVAL_SECONDS = 15.0  # of its steps; worker/mending.py says how often the whole storage is looked at
# While no worker listens, sweeps must not pile up for ever; while all are busy, some must wait their turn.
EXPIRES_SECONDS = 30.0

app = make_celery(get_settings(), socket_timeout_seconds=WORKER_TIMEOUT_SECONDS)
app.conf.update(
    worker_consumer="worker.process:PromptConsumer",
    worker_concurrency=get_settings().worker_threads,
    # In memory: a schedule of one look a second has nothing to remember. Beat may run twice without harm.
    beat_scheduler="celery.beat:Scheduler",
    beat_schedule={
        "sweep": {
            "task": SWEEP,
            "schedule": SWEEP_INTERVAL_SECONDS,
            "options": {"expires": EXPIRES_SECONDS},
        },
        "delete_loose_objects": {
            "task": DELETE_LOOSE_OBJECTS,
            "schedule": DELETE_INTERVAL_SECONDS,
            "options": {"expires": EXPIRES_SECONDS},
        },
        "expire_pictures": {
            "task": EXPIRE_PICTURES,
            "schedule": EXPIRE_INTERVAL_SECONDS,
            "options": {"expires": EXPIRES_SECONDS},
        },
        "mend_storage": {
            "task": MEND_STORAGE,
            "schedule": MEND_INTERVAL_SECONDS,
            "options": {"expires": EXPIRES_SECONDS},
        },
    },
)


@celeryd_init.connect
def _load_tasks(**_: object) -> None:
    """In a worker alone: beat and Flower need their names at most, and are spared two fifths of their memory."""
    for module in ("worker.tasks", "worker.process"):
        import_module(module)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(get_settings())


@beat_init.connect
def _note_what_beat_sends(**_: object) -> None:
    """Beat has no ear to be asked by; that it sends is how one knows that it lives."""
    notes = SweepNotes(get_settings().redis_url)

    def sent(**_: object) -> None:
        notes.note("sent")

    after_task_publish.connect(sent, sender=SWEEP, weak=False)
