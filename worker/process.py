"""The life of one worker process: what begins with it, how it is watched, and what it hands back at its end."""

import os
import threading
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import structlog
from celery.signals import (
    celeryd_after_setup,
    task_postrun,
    task_prerun,
    task_received,
    worker_ready,
    worker_shutting_down,
)
from celery.worker.consumer import Consumer

from shared.heap import freeze_heap
from shared.settings import get_settings
from worker.generation import Generation
from worker.health import figures, healthz, readyz, serve_pages
from worker.tasks import generation
from worker.watchdog import Watchdog, heartbeat_queue

# Whatever runs the worker should start it again (sysexits: a temporary failure).
STALLED_EXIT_STATUS = os.EX_TEMPFAIL
# When the database does not answer either, the ends of the leases hand the photos back.
HAND_BACK_SECONDS = 5.0

RECONNECT_SECONDS = 2.0

log = structlog.get_logger()


class PromptConsumer(Consumer):
    """Celery's, which otherwise lets up to half a minute pass between two tries to reach a Redis that was away."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=RECONNECT_SECONDS)
        return super().ensure_connected(conn)


@dataclass(frozen=True, slots=True)
class _Process:
    generation: Generation
    watchdog: Watchdog
    ending: SimpleQueue[None]  # one of the few things that a signal handler may safely put to


_this: _Process | None = None


@celeryd_after_setup.connect
def _set_up(sender: str, instance: Any, **_: object) -> None:
    """Before the consumer starts: `-Q` has been applied by now."""
    global _this  # noqa: PLW0603 - Celery's signals carry nothing of ours
    settings = get_settings()
    queues = instance.app.amqp.queues
    shared_queues = tuple(queues.consume_from)
    heartbeats = queues.select_add(heartbeat_queue(sender))
    watchdog = Watchdog(
        settings, queues=shared_queues, heartbeats=heartbeats, threads=instance.concurrency, on_stall=_end
    )
    _this = _Process(generation(), watchdog, SimpleQueue())
    threading.Thread(target=_hand_back_at_the_end, args=(_this,), name="hand-back", daemon=True).start()
    if settings.worker_health_port is not None:
        ready = partial(readyz, settings, lambda: watchdog.consumes)
        try:
            serve_pages(
                settings.worker_health_host,
                settings.worker_health_port,
                {"/healthz": healthz, "/readyz": ready, "/metrics": figures},
            )
        except OSError as error:
            raise SystemExit(
                f"The worker cannot listen on {settings.worker_health_host} port {settings.worker_health_port}: "
                f"{error.strerror}. Give each worker a WORKER_HEALTH_PORT of its own."
            ) from error


@worker_ready.connect
def _ready(**_: object) -> None:
    freeze_heap()
    if _this:
        _this.watchdog.start()


@task_received.connect
def _taken(request: Any, **_: object) -> None:
    if _this:
        _this.watchdog.consumption.taken(request.delivery_info["routing_key"])


@task_prerun.connect
def _began(**_: object) -> None:
    if _this:
        _this.watchdog.consumption.step_began()


@task_postrun.connect
def _ended(**_: object) -> None:
    if _this:
        _this.watchdog.consumption.step_ended()


@worker_shutting_down.connect
def _shut_down(**_: object) -> None:
    """Runs in a signal handler, so it takes no lock and asks no database; a thread that waits for this does."""
    if _this:
        _this.watchdog.stop()
        _this.generation.held.refuse()
        _this.ending.put(None)


def _hand_back_at_the_end(process: _Process) -> None:
    process.ending.get()
    process.generation.hand_back()


def _end(seen: str) -> None:
    """End a worker that has stalled, at once: what is stuck cannot be trusted to shut down."""
    log.warning("worker.stalled", seen=seen, exit_status=STALLED_EXIT_STATUS)
    if _this:
        handing_back = threading.Thread(target=_this.generation.hand_back, daemon=True)
        handing_back.start()
        handing_back.join(HAND_BACK_SECONDS)
    os._exit(STALLED_EXIT_STATUS)
