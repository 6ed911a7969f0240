"""The worker: one task makes a job's four photos. `celery -A bench.peers.plain_celery.tasks:app worker`"""

from typing import Any
from uuid import UUID

import httpx
import replicate
from celery import Celery, Task
from celery.signals import worker_process_init
from sqlalchemy import func, update

from bench.peers.plain_celery import settings, storage
from bench.peers.plain_celery.models import ENDED, Job, Photo, Session, engine, fail

POSES = ("head and shoulders", "half figure", "three-quarter figure", "full figure")  # one for each photo

app = Celery("plain", broker=settings.REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    # Celery's FAQ and its guide to tasks: a task that may run again is acknowledged when it is done, and goes back to
    # the queue when its process is killed.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,  # Celery's guide to optimizing: for long tasks
    worker_concurrency=settings.WORKER_CONCURRENCY,
    task_soft_time_limit=settings.TASK_SECONDS,
    broker_transport_options={"visibility_timeout": settings.VISIBILITY_TIMEOUT_SECONDS},
    broker_connection_retry_on_startup=True,
)


@worker_process_init.connect
def _own_connections(**_: Any) -> None:
    engine.dispose(close=False)  # SQLAlchemy's FAQ on forks: a child uses none of its parent's connections


class Generation(Task):
    """A task that gives the credit back when no retry is left."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        fail(UUID(args[0]), str(exc))


@app.task(base=Generation, autoretry_for=(Exception,), retry_backoff=True, max_retries=settings.TASK_MAX_RETRIES)
def generate(job_id: str) -> None:
    """Make what is missing of the job's photos; running again does no harm."""
    with Session.begin() as session:
        job = session.get(Job, UUID(job_id))
        if job is None or job.status in ENDED:
            return
        job.status = "PROCESSING"
        done = {photo.slot for photo in job.photos}
        style, portrait_key = job.style, job.portrait_key
    for slot, pose in enumerate(POSES):
        if slot not in done:
            prompt = f"Wedding portrait of the person in the reference photo, {style.lower()} style, {pose}"
            portrait = storage.address(portrait_key)
            output = replicate.run(
                settings.REPLICATE_MODEL,
                input={"prompt": prompt, "input_images": [portrait], "aspect_ratio": "3:4", "output_format": "jpg"},
                use_file_output=False,  # an address: file objects are made of https: addresses only
            )
            key = f"photos/{job_id}/{slot}.jpg"
            storage.put(key, httpx.get(output, timeout=30).raise_for_status().content)
            with Session.begin() as session:
                session.merge(Photo(job_id=UUID(job_id), slot=slot, object_key=key))
    with Session.begin() as session:
        session.execute(
            update(Job)
            .where(Job.id == UUID(job_id), Job.status.not_in(ENDED))
            .values(status="COMPLETED", ended_at=func.now())
        )
