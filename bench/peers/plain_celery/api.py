"""The API. `python -m bench.peers.plain_celery.api`"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import uvicorn
from fastapi import FastAPI, Form, Header, HTTPException, UploadFile
from kombu.exceptions import OperationalError
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from bench.peers.plain_celery import settings, storage
from bench.peers.plain_celery.models import Job, Session, User, create_tables, fail
from bench.peers.plain_celery.tasks import app as celery
from bench.peers.plain_celery.tasks import generate

Email = Annotated[str, Header(alias="X-User")]


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    create_tables()
    yield


app = FastAPI(title="Plain Celery", lifespan=_lifespan)


@app.post("/jobs", status_code=202)
def submit(image: UploadFile, style: Annotated[str, Form()], email: Email) -> dict[str, Any]:
    """Take one credit, and tell a worker."""
    job_id = uuid4()
    portrait_key = f"portraits/{job_id}.jpg"
    storage.put(portrait_key, image.file.read())
    with Session.begin() as session:
        _sign_up(session, email)
        taken = session.scalar(
            update(User)
            .where(User.email == email, User.credits >= 1)
            .values(credits=User.credits - 1)
            .returning(User.credits)
        )
        if taken is None:
            raise HTTPException(402, "no credit left")
        session.add(Job(id=job_id, email=email, style=style, portrait_key=portrait_key))
    try:
        generate.delay(str(job_id))
    except OperationalError as error:
        fail(job_id, "the queue does not answer")
        raise HTTPException(503, "try again") from error
    return {"id": str(job_id)}


@app.get("/jobs/{job_id}")
def show(job_id: UUID, email: Email) -> dict[str, Any]:
    with Session() as session:
        job = session.get(Job, job_id)
        if job is None or job.email != email:
            raise HTTPException(404)
        return {"status": job.status, "urls": [storage.address(photo.object_key) for photo in job.photos]}


@app.get("/me")
def me(email: Email) -> dict[str, int]:
    with Session.begin() as session:
        _sign_up(session, email)
        return {"credits": session.scalars(select(User.credits).where(User.email == email)).one()}


@app.get("/readyz")
def ready() -> dict[str, bool]:
    with Session() as session, celery.connection_for_write() as broker:
        session.execute(select(1))
        broker.ensure_connection(max_retries=1)
    return {"ready": True}


def _sign_up(session: Any, email: str) -> None:
    session.execute(insert(User).values(email=email, credits=settings.SIGNUP_CREDITS).on_conflict_do_nothing())


if __name__ == "__main__":
    uvicorn.run(app, host=settings.API_HOST, port=settings.API_PORT)
