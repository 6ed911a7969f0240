"""All photos of a job at once."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from api.dependencies import Parts, PartsDep, UserDep
from api.schemas import ProblemOut
from api.zip_stream import zip_stream
from shared.errors import NotFound, PhotoNotStored
from shared.models import Job, Photo
from shared.storage import ObjectNotFound, ObjectStorage, attachment

router = APIRouter(tags=["jobs"], responses={"4XX": {"model": ProblemOut}, "5XX": {"model": ProblemOut}})


class _Stored(NamedTuple):
    slot: int
    object_key: str
    stored_at: datetime


@router.get(
    "/jobs/{job_id}/photos.zip", response_class=StreamingResponse, responses={200: {"content": {"application/zip": {}}}}
)
async def download_photos(job_id: UUID, parts: PartsDep, user_id: UserDep) -> Response:
    """The job's stored photos as one archive; photos that are still being made are not waited for."""
    style, stored = await _stored(parts, user_id, job_id)
    # Read before the answer begins: a storage that is away can still be told.
    first = await to_thread.run_sync(_read, parts.storage, stored[0].object_key)
    files = _files(parts.storage, stored, first)
    name = f"cuggu-{style.lower()}-{str(job_id)[:8]}.zip"
    headers = {"Content-Disposition": attachment(name), "Cache-Control": "private, no-store"}
    return StreamingResponse(zip_stream(files), headers=headers, media_type="application/zip")


async def _stored(parts: Parts, user_id: UUID, job_id: UUID) -> tuple[str, list[_Stored]]:
    """The job's style, and the slots, keys and times of its stored photos; there is one at least."""
    own = select(Job.style).where(Job.id == job_id, Job.user_id == user_id, Job.deleted_at.is_(None))
    there = (
        select(Photo.slot, Photo.object_key, Photo.stored_at)
        .where(Photo.job_id == job_id, Photo.object_key.is_not(None))
        .order_by(Photo.slot)
    )
    async with parts.sessions() as session:
        style = await session.scalar(own)
        if style is None:
            raise NotFound
        stored = [_Stored(row.slot, row.object_key, row.stored_at) for row in await session.execute(there)]
    if not stored:
        raise PhotoNotStored
    return style, stored


def _files(storage: ObjectStorage, stored: Sequence[_Stored], first: bytes) -> Iterator[tuple[str, datetime, bytes]]:
    for number, photo in enumerate(stored):
        yield f"cuggu-{photo.slot + 1}.jpg", photo.stored_at, first if number == 0 else _read(storage, photo.object_key)


def _read(storage: ObjectStorage, key: str) -> bytes:
    try:
        return storage.get(key).body
    except ObjectNotFound as error:  # the job was deleted a moment ago
        raise NotFound from error
