"""Where a job came from: the request and the trace that every later step of it goes on with, whoever sent the step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.models import Job, Photo
from shared.tracing import span


@dataclass(frozen=True, slots=True)
class Origin:
    job_id: UUID
    request_id: str | None  # of the submission; None where nobody sent one, and for jobs of older workers
    traceparent: str | None


def of_photo(session: Session, photo_id: UUID) -> Origin:
    """The origin of the photo's job. Raises sqlalchemy.exc.NoResultFound."""
    wanted = select(Job.id, Job.request_id, Job.traceparent).join(Photo, Photo.job_id == Job.id)
    return Origin(*session.execute(wanted.where(Photo.id == photo_id)).one())


def of_job(session: Session, job_id: UUID) -> Origin:
    """Raises sqlalchemy.exc.NoResultFound."""
    return Origin(*session.execute(select(Job.id, Job.request_id, Job.traceparent).where(Job.id == job_id)).one())


@contextmanager
def going_on(origin: Origin, step: str, queue: str, **ids: UUID) -> Iterator[None]:
    """Around a step that a queue brought: its log lines name the ids, and its span belongs to the job's trace."""
    named = {"job_id": str(origin.job_id)} | {name: str(value) for name, value in ids.items()}
    said = named if origin.request_id is None else named | {"request_id": origin.request_id}
    with (
        structlog.contextvars.bound_contextvars(**said),
        span(
            step,
            "consumer",
            parent=origin.traceparent,
            messaging__system="celery",
            messaging__operation__type="process",
            messaging__destination__name=queue,
            **{f"cuggu__{name}": value for name, value in said.items()},
        ),
    ):
        yield
