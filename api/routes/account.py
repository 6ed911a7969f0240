"""A user's account as a whole: everything about it in one archive, and its end."""

from typing import Annotated
from uuid import UUID

import structlog
from anyio import to_thread
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from api.account_export import export_files, read_account
from api.dependencies import Parts, PartsDep, UserDep
from api.schemas import ProblemOut
from api.zip_stream import zip_stream
from shared import deletion
from shared.errors import InvalidRequest
from shared.former_addresses import address_key
from shared.settlement_log import log_settlement
from shared.storage import attachment

log = structlog.get_logger()

router = APIRouter(tags=["me"], responses={"4XX": {"model": ProblemOut}, "5XX": {"model": ProblemOut}})


@router.get("/me/export", response_class=StreamingResponse, responses={200: {"content": {"application/zip": {}}}})
async def export_account(parts: PartsDep, user_id: UserDep) -> Response:
    """Everything there is about you, as a ZIP: `account.json`, and the portraits and photos that are still kept.

    `account.json` holds who you are, the ledger, every job with its photos, events and consent, and your deletions.
    """
    async with parts.sessions() as session:
        account = await session.run_sync(read_account, user_id)
    # The first file is read before the answer begins: a storage that is away can still be told.
    files = await to_thread.run_sync(export_files, parts.storage, account)
    headers = {"Content-Disposition": attachment("cuggu-account.zip"), "Cache-Control": "private, no-store"}
    return StreamingResponse(zip_stream(files), headers=headers, media_type="application/zip")


@router.delete("/me", status_code=204)
async def delete_account(
    response: Response,
    parts: PartsDep,
    user_id: UserDep,
    confirm: Annotated[UUID, Query(description="your `id`, as `GET /me` tells it: a call by mistake does not know it")],
) -> None:
    """Delete your account for good: all jobs, with every portrait and photo. There is no way back.

    Jobs in work are canceled first. Every address of a picture is dead when this answers, and the last object is gone
    within a minute. You are signed out everywhere: cookies and tokens from before work no more. Credits that are left
    are lost. What remains is the ledger, under a random name that leads to nobody. Whoever signs in with the same
    address later begins as a new user, without the free credits.
    """
    if confirm != user_id:
        raise InvalidRequest(fields=["query.confirm"])
    async with parts.sessions.begin() as session:
        deletion_id = await session.run_sync(deletion.leave, user_id, address_key(parts.settings))
    log.info("account.deleted", user_id=str(user_id), deletion_id=str(deletion_id))
    parts.session_cookie.clear(response)
    await _delete_jobs(parts, deletion_id)


async def _delete_jobs(parts: Parts, deletion_id: UUID) -> None:
    """All of them here and now; a process that dies on the way leaves the rest to the workers."""
    while True:
        async with parts.sessions.begin() as session:
            done = await session.run_sync(deletion.delete_next_jobs, deletion_id)
        if not done:
            return
        for job_id, settlement in done:
            if settlement is not None:
                log_settlement(settlement)
            await parts.changes.tell(job_id)
