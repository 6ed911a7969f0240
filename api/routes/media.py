"""Stored pictures under addresses that stay: unguessable, and dead once the picture is deleted."""

from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import func, select

from api.dependencies import Parts, PartsDep
from shared.errors import NotFound
from shared.jobs import portrait_key
from shared.models import Job, Photo
from shared.storage import ObjectNotFound, attachment

router = APIRouter(prefix="/media", tags=["media"])


@router.get("/portraits/{portrait_id}", response_class=Response)
async def get_portrait(portrait_id: UUID, parts: PartsDep) -> Response:
    """The portrait of a job, for as long as it is kept."""
    kept = select(Job.portrait_id).where(Job.portrait_id == portrait_id, Job.portrait_deleted_at.is_(None))
    async with parts.sessions() as session:
        known = await session.scalar(kept)
    if known is None:
        raise NotFound
    return await _serve(parts, portrait_key(portrait_id), None)


@router.get("/{photo_id}", response_class=Response)
async def get_photo(
    photo_id: UUID,
    parts: PartsDep,
    download: Annotated[bool, Query(description="save it as a file instead of showing it")] = False,
) -> Response:
    """A stored photo: 307 to a short-lived private address, or the file itself where it is on our disk."""
    there = select(Photo.object_key, Photo.slot).where(Photo.id == photo_id, Photo.object_key.is_not(None))
    async with parts.sessions() as session:
        row = (await session.execute(there)).one_or_none()
    if row is None:
        raise NotFound
    return await _serve(parts, row.object_key, f"cuggu-{row.slot + 1}.jpg" if download else None)


@router.get("/{photo_id}/thumbnail", response_class=Response)
async def get_thumbnail(photo_id: UUID, parts: PartsDep) -> Response:
    """A stored photo, small enough for a list; the photo itself if it was stored before there were thumbnails."""
    key = func.coalesce(Photo.thumbnail_key, Photo.object_key)
    async with parts.sessions() as session:
        found = await session.scalar(select(key).where(Photo.id == photo_id))
    if found is None:
        raise NotFound
    return await _serve(parts, found, None)


async def _serve(parts: Parts, key: str, download_name: str | None) -> Response:
    """To be called without a database session: a picture may take its reader minutes."""
    url = await to_thread.run_sync(lambda: parts.storage.signed_url(key, download_name=download_name))
    if url is not None:
        return RedirectResponse(url, 307, {"Cache-Control": "private, no-store"})
    try:
        stored = await to_thread.run_sync(parts.storage.get, key)
    except ObjectNotFound as error:
        raise NotFound from error
    headers = {"Cache-Control": "private, max-age=300", "X-Content-Type-Options": "nosniff"}
    if download_name is not None:
        headers["Content-Disposition"] = attachment(download_name)
    return Response(stored.body, media_type=stored.content_type, headers=headers)
