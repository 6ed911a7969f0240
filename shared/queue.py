"""The whole contract between API and workers: task names, queues, and the one Celery app factory.

A message is a hint that makes things quick. The rows in PostgreSQL are the truth, so every message may be lost,
doubled, late or out of order, and tasks take ids only.
"""

from collections.abc import Iterable
from uuid import UUID

import redis
import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from shared.settings import Settings

START_PHOTO = "start_photo"
COLLECT_PHOTO = "collect_photo"
CLOSE_ATTEMPT = "close_attempt"
DELIVER_WEBHOOK = "deliver_webhook"
SWEEP = "sweep"
DELETE_LOOSE_OBJECTS = "delete_loose_objects"
EXPIRE_PICTURES = "expire_pictures"
MEND_STORAGE = "mend_storage"

START_QUEUE = "start"
COLLECT_QUEUE = "collect"
MAINTENANCE_QUEUE = "maintenance"

# Redis refuses a connection at once when it is stopped, and never when it hangs: this bounds the second case.
PUBLISHER_TIMEOUT_SECONDS = 1.0
WORKER_TIMEOUT_SECONDS = 5.0

log = structlog.get_logger()


def make_celery(settings: Settings, *, socket_timeout_seconds: float = PUBLISHER_TIMEOUT_SECONDS) -> Celery:
    """The Celery app of this process.

    Messages are acknowledged when a thread takes them: a lost worker is found by its photos' leases within seconds,
    and not by Redis's visibility timeout (an hour by default; measured: never sooner than its sweep of 100 s).
    """
    app = Celery("cuggu", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_queues=[Queue(name, Exchange(name), name) for name in (START_QUEUE, COLLECT_QUEUE, MAINTENANCE_QUEUE)],
        task_default_queue=MAINTENANCE_QUEUE,
        task_routes={
            START_PHOTO: {"queue": START_QUEUE},
            COLLECT_PHOTO: {"queue": COLLECT_QUEUE},
            CLOSE_ATTEMPT: {"queue": MAINTENANCE_QUEUE},
            DELIVER_WEBHOOK: {"queue": MAINTENANCE_QUEUE},
            SWEEP: {"queue": MAINTENANCE_QUEUE},
            DELETE_LOOSE_OBJECTS: {"queue": MAINTENANCE_QUEUE},
            EXPIRE_PICTURES: {"queue": MAINTENANCE_QUEUE},
            MEND_STORAGE: {"queue": MAINTENANCE_QUEUE},
        },
        # A Flower that watches turns them on by itself, again and again (read in 2.0). Nobody else reads them, and
        # they took a sixth of a worker's processor (measured).
        worker_send_task_events=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # the default gives up after 100 tries, and the worker with it
        broker_transport_options={
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": PUBLISHER_TIMEOUT_SECONDS,
        },
        # `retry=False` would not be quick: kombu then retries for up to 6 s below the publish (measured).
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
    )
    return app


class JobQueue:
    """Tells workers what is due. Never raises when Redis is away: the sweep sends what was never sent."""

    def __init__(self, app: Celery, redis_url: str) -> None:
        self._app = app
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=PUBLISHER_TIMEOUT_SECONDS, socket_connect_timeout=PUBLISHER_TIMEOUT_SECONDS
        )

    def length(self, queue: str) -> int | None:
        """How many messages wait in the queue; None when Redis does not answer."""
        try:
            return int(self._redis.llen(queue))
        except redis.RedisError as error:
            log.warning("queue.unreachable", queue=queue, error=str(error))
            return None

    def start_photos(self, photo_ids: Iterable[UUID]) -> bool:
        """Whether all were told; blocks for at most about `2 * PUBLISHER_TIMEOUT_SECONDS`."""
        return self._send(START_PHOTO, photo_ids)

    def collect_photos(self, photo_ids: Iterable[UUID]) -> bool:
        return self._send(COLLECT_PHOTO, photo_ids)

    def collect_on_news(self, photo_id: UUID, prediction_id: str | None) -> bool:
        """News from outside says that the prediction has ended, so do not wait for the next check."""
        return self._send(COLLECT_PHOTO, [photo_id], hinted=True, prediction_id=prediction_id)

    def close_attempts(self, attempt_ids: Iterable[UUID]) -> bool:
        return self._send(CLOSE_ATTEMPT, attempt_ids)

    def deliver_webhooks(self, delivery_ids: Iterable[UUID]) -> bool:
        return self._send(DELIVER_WEBHOOK, delivery_ids)

    def _send(self, task: str, ids: Iterable[UUID], **options: bool | str | None) -> bool:
        for item in ids:
            try:
                self._app.send_task(task, args=[str(item)], kwargs=options)
            except (OperationalError, AttributeError) as error:
                # The second is kombu's word for a channel that another thread closed meanwhile (read in 5.7.0, met in a
                # storm). The next one would wait for the same time-out again.
                log.warning("queue.unreachable", task=task, id=str(item), error=str(error))
                return False
        return True
