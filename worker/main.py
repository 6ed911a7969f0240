"""The worker's entry point: `celery -A worker.main worker -P threads`, and `celery -A worker.main beat` beside it."""

from celery.signals import setup_logging

from shared.queue import SWEEP, WORKER_TIMEOUT_SECONDS, make_celery
from shared.settings import get_settings
from shared.telemetry import configure_logging

SWEEP_INTERVAL_SECONDS = 1.0

app = make_celery(get_settings(), socket_timeout_seconds=WORKER_TIMEOUT_SECONDS)
app.conf.update(
    include=["worker.tasks"],
    worker_concurrency=get_settings().worker_threads,
    # In memory: a schedule of one look a second has nothing to remember. Beat may run twice without harm.
    beat_scheduler="celery.beat:Scheduler",
    beat_schedule={
        "sweep": {
            "task": SWEEP,
            "schedule": SWEEP_INTERVAL_SECONDS,
            # While no worker listens, sweeps must not pile up.
            "options": {"expires": 5 * SWEEP_INTERVAL_SECONDS},
        }
    },
)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(get_settings())
