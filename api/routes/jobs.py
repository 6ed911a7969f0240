"""Submit a job, follow its events, list, choose, cancel, delete."""

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from api.bounded_body import BoundedRoute
from api.dependencies import (
    SUBMISSION_DOCS,
    LanguageDep,
    PartsDep,
    SessionDep,
    SubmissionDep,
    UserDep,
)
from api.event_stream import EventStream
from api.event_view import read_place
from api.job_view import read_job, read_page
from api.json_answer import json_answer
from api.rate_limit import Allowance
from api.routes.poll import POLL_AFTER_SECONDS
from api.schemas import JobOut, JobPage, ProblemOut, SelectionIn, SubmittedOut
from shared import deletion, jobs
from shared.settlement_log import log_settlement
from shared.states import ACTIVE_JOB

EventId = Annotated[int, Field(ge=0, lt=2**63)]
log = structlog.get_logger()

router = APIRouter(
    route_class=BoundedRoute,
    tags=["jobs"],
    responses={"4XX": {"model": ProblemOut}, "5XX": {"model": ProblemOut}},
)


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra=SUBMISSION_DOCS,
    responses={202: {"model": SubmittedOut}, 200: {"model": SubmittedOut, "description": "a replay of an earlier one"}},
)
async def submit_job(
    request: Request,
    parts: PartsDep,
    user_id: UserDep,
    submission: SubmissionDep,
    language: LanguageDep,
    idempotency_key: Annotated[str | None, Header(max_length=255, description="repeat it to be safe to repeat")] = None,
) -> Response:
    """Ask for four photos of one person in one style; costs one credit, which comes back if they cannot be made."""
    submitted = await parts.submitter.submit(user_id, submission, language)
    async with parts.sessions() as session:
        job = await read_job(session, user_id, submitted.job_id, language, parts.durations)
    headers = {"Location": f"/jobs/{submitted.job_id}", **_allowance(await parts.limits.allowance(user_id))}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if job["status"] in ACTIVE_JOB:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return json_answer(
        {**job, "remaining_credits": submitted.credits_left}, 200 if submitted.replayed else 202, headers
    )


@router.get(
    "/jobs/{job_id}/events",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {"description": "server-sent events, ended by us once the job has ended"},
        204: {"description": "no more will come; a browser does not come back after it"},
    },
)
async def follow_job(
    job_id: UUID,
    parts: PartsDep,
    user_id: UserDep,
    language: LanguageDep,
    last_event_id: Annotated[
        EventId | None, Header(description="go on after this event; without one, from the first")
    ] = None,
    last_event_id_too: Annotated[
        EventId | None, Query(alias="last_event_id", description="the same, for clients that cannot send the header")
    ] = None,
) -> Response:
    """Everything that happened to the job and that happens to it, as it happens, until it has ended.

    `job.accepted`, `photo.started`, `photo.retried`, `photo.stored`, `photo.failed` and `photo.selected` carry the
    job's `status` and `progress` after them and the `photo` (the first one all `photos`). The last event,
    `job.completed`, `job.partial`, `job.failed` or `job.canceled`, carries the whole job and `remaining_credits`.
    """
    known = last_event_id if last_event_id is not None else last_event_id_too
    async with parts.sessions() as session:
        after = await read_place(session, user_id, job_id, known or 0)
    if after is None:
        return Response(status_code=204)
    return EventStream(parts.live, job_id, after, language)


@router.get("/jobs")
async def list_jobs(
    parts: PartsDep,
    session: SessionDep,
    user_id: UserDep,
    language: LanguageDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> JobPage:
    """Your jobs, newest first, with the credits you have."""
    page = await read_page(session, user_id, limit, cursor, language, parts.durations)
    return JobPage.model_validate(page, from_attributes=True)


@router.put("/jobs/{job_id}/selection")
async def select_photo(
    job_id: UUID, selection: SelectionIn, parts: PartsDep, session: SessionDep, user_id: UserDep, language: LanguageDep
) -> JobOut:
    """Choose one of the job's stored photos; choosing again replaces the choice."""
    async with session.begin():
        await session.run_sync(jobs.select_photo, user_id, job_id, selection.photo_id)
    return JobOut.model_validate(await read_job(session, user_id, job_id, language, parts.durations))


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(
    job_id: UUID, parts: PartsDep, session: SessionDep, user_id: UserDep, language: LanguageDep
) -> JobOut:
    """Stop the job. The credit comes back unless a photo had been stored already; that photo stays yours."""
    async with session.begin():
        settlement = await session.run_sync(jobs.cancel, user_id, job_id)
    log_settlement(settlement)
    await parts.changes.tell(job_id)
    return JobOut.model_validate(await read_job(session, user_id, job_id, language, parts.durations))


@router.delete("/jobs/{job_id}", status_code=204)
async def delete_job(job_id: UUID, parts: PartsDep, session: SessionDep, user_id: UserDep) -> None:
    """Delete photos and portrait for good. A job in work is canceled first; what it cost stays in the ledger."""
    async with session.begin():
        settlement = await session.run_sync(deletion.delete_job, user_id, job_id)
    if settlement is not None:
        log_settlement(settlement)
    log.info("job.deleted", job_id=str(job_id), user_id=str(user_id))
    await parts.changes.tell(job_id)


def _allowance(allowance: Allowance | None) -> dict[str, str]:
    if allowance is None:
        return {}
    return {
        "RateLimit-Limit": str(allowance.limit),
        "RateLimit-Remaining": str(allowance.remaining),
        "RateLimit-Reset": str(allowance.reset_seconds),
    }
