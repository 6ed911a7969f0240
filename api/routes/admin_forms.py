"""What staff may do, each by a form of their pages: grant, retry, cancel, pause. Every one is written down with it."""

from functools import partial
from typing import Annotated, TypeVar
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from sqlalchemy.orm import Session

from api.admin_pages import PREFIX, done, not_done
from api.dependencies import PartsDep, SessionDep
from api.staff_access import Staff, StaffDep, StaffFormDep
from shared import granting, jobs, spending, staff_actions
from shared.errors import InvalidRequest, NotFound
from shared.free_retry import NotRetried, retry_free_of_charge
from shared.granting import STAFF_PREFIX
from shared.jobs import Settlement
from shared.models import Job
from shared.settlement_log import log_settlement

router = APIRouter(prefix=PREFIX, include_in_schema=False)

Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]


Form = TypeVar("Form", bound=BaseModel)


class ReasonForm(BaseModel):
    reason: Reason


class GrantForm(ReasonForm):
    amount: int = Field(ge=1)
    nonce: UUID  # made with the form


@router.post("/users/{user_id}/grant")
async def grant(user_id: UUID, parts: PartsDep, session: SessionDep, staff: StaffDep, fields: StaffFormDep) -> Response:
    """Add credits; the form's own number is the reference, so one form grants once."""
    form = _read(GrantForm, fields)
    limit = parts.settings.grant_max_credits
    if form.amount > limit:
        raise InvalidRequest(reason=f"At most {limit} credits at once.")
    reference = f"{STAFF_PREFIX}{form.nonce}"
    async with session.begin():
        _, granted = await session.run_sync(granting.grant, staff.actor, user_id, form.amount, reference, form.reason)
    return done(f"{PREFIX}/users/{user_id}", "granted" if granted else "granted-before")


@router.post("/jobs/{job_id}/retry")
async def retry(request: Request, job_id: UUID, parts: PartsDep, staff: StaffDep, fields: StaffFormDep) -> Response:
    """A FAILED job once more, at our cost."""
    form = _read(ReasonForm, fields)
    try:
        retried = await to_thread.run_sync(
            partial(
                retry_free_of_charge,
                parts.engine,
                parts.storage,
                parts.queue,
                job_id,
                form.reason,
                actor=staff.actor,
                spending=parts.spending,
                deadline_seconds=parts.settings.job_deadline_seconds,
                delivery_wanted=parts.settings.site_webhook_url is not None,
            )
        )
    except NotRetried as error:
        return not_done(request, str(error))
    return done(f"{PREFIX}/jobs/{retried.job_id}", "retried")


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: UUID, parts: PartsDep, session: SessionDep, staff: StaffDep, fields: StaffFormDep) -> Response:
    """End a job in its user's place; their credit comes back by the same rule."""
    form = _read(ReasonForm, fields)
    async with session.begin():
        settlement = await session.run_sync(_cancel, staff, job_id, form.reason)
    log_settlement(settlement)
    await parts.changes.tell(job_id)
    return done(f"{PREFIX}/jobs/{job_id}", "canceled")


@router.post("/pause")
async def pause(session: SessionDep, staff: StaffDep, fields: StaffFormDep) -> Response:
    """No new jobs from now on."""
    form = _read(ReasonForm, fields)
    async with session.begin():
        begun = await session.run_sync(spending.pause, staff.actor, form.reason)
    return done(PREFIX, "paused" if begun else "paused-before")


@router.post("/resume")
async def resume(session: SessionDep, staff: StaffDep) -> Response:
    """New jobs again."""
    async with session.begin():
        ended = await session.run_sync(spending.resume, staff.actor)
    return done(PREFIX, "resumed" if ended else "resumed-before")


def _cancel(session: Session, staff: Staff, job_id: UUID, reason: str) -> Settlement:
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound
    settlement = jobs.cancel(session, job.user_id, job_id)
    told = {"reason": reason, "refunded": settlement.refunded_to is not None}
    staff_actions.record(session, staff.actor, "job.canceled", told, user_id=job.user_id, job_id=job_id)
    return settlement


def _read(kind: type[Form], fields: dict[str, str]) -> Form:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidRequest(reason=said) from error
