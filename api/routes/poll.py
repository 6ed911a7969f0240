"""A job as it is, or as soon as it has changed: what is asked for most, by far."""

import re
import time
from contextlib import nullcontext
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.dependencies import CallerDep, LanguageDep, Parts, PartsDep, current_caller
from api.errors import preferred_language, render_error
from api.job_view import RenderedJob
from api.schemas import JobOut, ProblemOut
from shared.database import PASSING_FAULTS
from shared.errors import Refusal

POLL_AFTER_SECONDS = 2  # what we ask clients to wait between polls
_TAG = re.compile(r'"[^"]*"')
_PATH = re.compile(r"/jobs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

router = APIRouter(tags=["jobs"], responses={"4XX": {"model": ProblemOut}, "5XX": {"model": ProblemOut}})


@router.get("/jobs/{job_id}", responses={200: {"model": JobOut}, 304: {"description": "nothing has changed"}})
async def get_job(
    request: Request,
    job_id: UUID,
    parts: PartsDep,
    caller: CallerDep,
    language: LanguageDep,
    wait: Annotated[float, Query(ge=0, le=60, description="hold the answer this many seconds for a change")] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The job as it is. With `wait`, as soon as it differs from `If-None-Match` (or from now)."""
    until = time.monotonic() + wait
    async with parts.changes.watching(job_id, request) if wait else nullcontext() as watch:
        job = await parts.polls.look(caller, str(job_id), language)
        known = _tags(if_none_match) or {job.etag}
        while watch and job.etag in known and job.is_active and (left := until - time.monotonic()) > 0:
            await watch.next(left)
            if watch.client_left:
                break
            job = await parts.polls.look(caller, str(job_id), language)
    return _answer(job, if_none_match)


class PlainPolls:
    """The same call without `wait`, which is nearly all there is of it, answered before FastAPI's own steps.

    Looking for the route, solving the dependencies and validating parameters took two thirds of its time. Whatever is
    no such poll goes on to `get_job`; what is to be refused is told by the same renderer.
    """

    path = "/jobs/{job_id}"

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["query_string"]:
            path = _PATH.fullmatch(scope["path"])
            if path is not None:
                scope["route"] = self  # as a router would, for whoever counts requests
                request = Request(scope, receive)
                try:
                    answer = await _answer_now(request, path[1])
                except (Refusal, *PASSING_FAULTS) as error:
                    answer = await render_error(request, error)
        await answer(scope, receive, send)


async def _answer_now(request: Request, job_id: str) -> Response:
    parts: Parts = request.app.state.parts
    caller = await current_caller(request, parts)
    job = await parts.polls.look(caller, job_id, preferred_language(request))
    return _answer(job, request.headers.get("if-none-match"))


def _answer(job: RenderedJob, if_none_match: str | None) -> Response:
    headers = {"ETag": job.etag, "Cache-Control": "private, no-cache", "Vary": "Accept-Language, Authorization, Cookie"}
    if job.is_active:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if if_none_match is not None and (if_none_match.strip() == "*" or job.etag in _tags(if_none_match)):
        return Response(status_code=304, headers=headers)
    return Response(job.body, headers=headers, media_type="application/json")


def _tags(if_none_match: str | None) -> set[str]:
    """The entity tags of an If-None-Match; none for `*`, which stands for whatever there is.

    Compared weakly (RFC 9110, 13.1.2): a proxy that compresses the answer has put `W/` before the tag.
    """
    return set(_TAG.findall(if_none_match or ""))
