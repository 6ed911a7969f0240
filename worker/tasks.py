"""The Celery tasks: thin. Each takes an id, and its use case looks at the row first."""

from functools import cache
from uuid import UUID

from celery.signals import worker_init
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from shared.change_notes import ChangeNotes
from shared.content_credentials import open_signer
from shared.database import make_engine
from shared.metrics import SWEEPS
from shared.observed_storage import ObservedStorage
from shared.queue import (
    CLOSE_ATTEMPT,
    COLLECT_PHOTO,
    DELETE_LOOSE_OBJECTS,
    DELIVER_WEBHOOK,
    EXPIRE_PICTURES,
    MEND_STORAGE,
    START_PHOTO,
    SWEEP,
    JobQueue,
)
from shared.queue_figures import SweepNotes
from shared.settings import get_settings
from shared.storage import open_storage
from shared.tracing import configure_tracing
from worker import retention, sweeper
from worker.closing import Closing
from worker.generation import Generation
from worker.main import app
from worker.mending import Mending
from worker.predictor import open_predictor
from worker.site_webhook import SiteWebhook
from worker.steps import step
from worker.watchdog import HEARTBEAT


def _engine(pool_size: int) -> Engine:
    settings = get_settings()
    pooling = settings.database_transaction_pooling
    return make_engine(settings.database_url, transaction_pooling=pooling, pool_size=pool_size)


@cache
def _sessions() -> sessionmaker[Session]:
    return sessionmaker(_engine(get_settings().worker_threads), expire_on_commit=False)


@cache
def _notes() -> ChangeNotes:
    return ChangeNotes(get_settings().redis_url)


@cache
def _queue() -> JobQueue:
    return JobQueue(app, get_settings().redis_url)


@cache
def _sweep_notes() -> SweepNotes:
    return SweepNotes(get_settings().redis_url)


@cache
def generation() -> Generation:
    settings = get_settings()
    return Generation(
        sessions=_sessions(),
        storage=ObservedStorage(open_storage(settings), settings.storage),
        predictor=open_predictor(settings),
        notes=_notes(),
        settings=settings,
        signer=open_signer(settings),
    )


@cache
def _closing() -> Closing:
    made = generation()
    return Closing(made.sessions, made.predictor, made.settings)


@cache
def _site_webhook() -> SiteWebhook:
    return SiteWebhook(_sessions(), get_settings())


@cache
def _mending() -> Mending:
    return Mending(_engine(pool_size=1), generation().storage)


@worker_init.connect
def _build(**_: object) -> None:
    configure_tracing("cuggu-worker")
    # Once, before the threads come: a wrong setting ends the worker here, with its reason. Of what a signal's receiver
    # raises, Celery lets only this through.
    try:
        _closing()
        _site_webhook()
        _queue()
    except ValueError as error:
        raise SystemExit(f"worker: {error}") from error


@step(START_PHOTO)
def start_photo(photo_id: str) -> None:
    generation().start(UUID(photo_id))


@step(COLLECT_PHOTO)
def collect_photo(photo_id: str, hinted: bool = False, prediction_id: str | None = None) -> None:
    generation().collect(UUID(photo_id), hinted=hinted, named=prediction_id)


@step(CLOSE_ATTEMPT)
def close_attempt(attempt_id: str) -> None:
    _closing().close(UUID(attempt_id))


@step(DELIVER_WEBHOOK)
def deliver_webhook(delivery_id: str) -> None:
    _site_webhook().deliver(UUID(delivery_id))


@step(SWEEP)
def sweep() -> None:
    with SWEEPS.time():
        sweeper.sweep(_sessions(), _queue(), _notes(), get_settings())
    _sweep_notes().note("finished")


@step(DELETE_LOOSE_OBJECTS)
def delete_loose_objects() -> None:
    sweeper.delete_loose_objects(_sessions(), generation().storage)


@step(EXPIRE_PICTURES)
def expire_pictures() -> None:
    retention.expire_pictures(_sessions(), _notes(), get_settings())


@step(MEND_STORAGE)
def mend_storage() -> None:
    _mending().go_on()


@app.task(name=HEARTBEAT, send_events=False)
def heartbeat() -> None:
    """Nothing is done: that it was taken is what counts."""
