"""The three routes of the product's first plan, with its bodies, over the same use cases.

A page that was written for the plan works unchanged. Two of its fields are left out on purpose: what a job cost
us and the provider's id are nobody's business but ours.
"""

import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.bounded_body import BoundedRoute
from api.dependencies import SUBMISSION_DOCS, Parts, PartsDep, SessionDep, UserDep, submission
from api.errors import PROBLEMS, problem_headers
from api.job_view import read_job, read_page
from api.json_answer import json_answer
from api.submission import Submitted
from shared import jobs
from shared.errors import NotFound
from shared.settings import Settings
from shared.states import ACTIVE_JOB, JobStatus

WAIT_SECONDS = 120
HISTORY_LENGTH = 20
PREFIX = "/api/ai"

# The plan's own sentences, word for word; a code that is not here is told in English by the table of all errors.
_SENTENCES = {
    "no_face": "얼굴이 감지되지 않았습니다",
    "multiple_faces": "1명의 얼굴만 업로드해주세요",
    "face_check_unavailable": "얼굴 감지 실패",
    "internal": "AI 생성 중 오류가 발생했습니다",
    "not_found": "Generation not found",
    "storage_unavailable": "AI 생성 중 오류가 발생했습니다",
}
_STILL_AT_IT = "사진을 아직 만들고 있습니다. 잠시 후 내역에서 확인해주세요"

router = APIRouter(route_class=BoundedRoute, prefix=PREFIX, tags=["plan"])


class SelectIn(BaseModel):
    generationId: UUID
    selectedUrl: str


@router.post("/generate", openapi_extra=SUBMISSION_DOCS)
async def generate(request: Request, parts: PartsDep, user_id: UserDep) -> Response:
    """Submit a job and wait for its end, at most two minutes. Then it answers 504, and the job goes on."""
    submitted = await _submit(request, parts, user_id)
    until = time.monotonic() + WAIT_SECONDS
    async with parts.changes.watching(submitted.job_id, request) as watch:
        while True:
            async with parts.sessions() as session:
                job = await read_job(session, user_id, submitted.job_id, "ko", parts.durations)
                balance = (await read_page(session, user_id, 1, None, "ko", parts.durations)).remaining_credits
            left = until - time.monotonic()
            if job["status"] not in ACTIVE_JOB or left <= 0 or watch.client_left:
                break
            await watch.next(left)
    if job["status"] in ACTIVE_JOB:
        # The page would take a success for the end. With the id it finds the photos in its history.
        return json_answer({"error": _STILL_AT_IT, "generationId": submitted.job_id}, 504)
    if job["status"] != JobStatus.COMPLETED:
        return json_answer({"error": _SENTENCES["internal"], "generationId": submitted.job_id}, 500)
    row = _generation(parts.settings, job)
    data = {name: row[name] for name in ("id", "originalUrl", "generatedUrls", "style")}
    return json_answer({"success": True, "data": {**data, "remainingCredits": balance}})


@router.get("/generations")
async def generations(parts: PartsDep, session: SessionDep, user_id: UserDep) -> Response:
    """The twenty newest jobs."""
    page = await read_page(session, user_id, HISTORY_LENGTH, None, "ko", parts.durations)
    rows = [{**_generation(parts.settings, job), "userId": user_id} for job in page.jobs]
    return json_answer({"success": True, "data": rows, "remainingCredits": page.remaining_credits})


@router.post("/select")
async def select(selection: SelectIn, session: SessionDep, user_id: UserDep) -> Response:
    """Choose a photo by its address."""
    try:
        photo_id = UUID(selection.selectedUrl.rstrip("/").rpartition("/")[2])
    except ValueError as error:
        raise NotFound from error
    async with session.begin():
        await session.run_sync(jobs.select_photo, user_id, selection.generationId, photo_id)
    return json_answer({"success": True, "data": {"selectedUrl": selection.selectedUrl}})


async def _submit(request: Request, parts: Parts, user_id: UUID) -> Submitted:
    # Apart from `generate`, which waits: it must not hold the picture in memory all the while.
    async with asynccontextmanager(submission)(request, parts, user_id) as received:
        return await parts.submitter.submit(user_id, received, "ko")


def plan_error(_request: Request, code: str, details: Mapping[str, Any]) -> JSONResponse:
    """An error in the plan's form: `{"error": ...}`, with the balance where a credit is missing."""
    problem = PROBLEMS[code]
    body: dict[str, Any] = {"error": _SENTENCES.get(code, problem.en)}
    if code == "insufficient_credits":
        body["balance"] = details["balance"]
    return JSONResponse(body, problem.status, problem_headers(code, details))


def _generation(settings: Settings, job: dict[str, Any]) -> dict[str, Any]:
    # Never from the Host header, which anybody may write as they like.
    base = settings.public_url.rstrip("/")
    urls = {str(photo["id"]): base + photo["url"] for photo in job["photos"] if photo["url"]}
    return {
        "id": job["id"],
        "originalUrl": base + job["portrait_url"] if job["portrait_url"] else None,
        "style": job["style"],
        "generatedUrls": list(urls.values()),
        "selectedUrl": urls.get(str(job["selected_photo_id"])),
        "status": job["status"],
        "creditsUsed": 0 if job["error"] and job["error"]["refunded"] else 1,
        "createdAt": job["created_at"],
        "completedAt": job["completed_at"],
    }
