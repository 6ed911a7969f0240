"""The staff's pages, to read: overview, users, one job's story, what staff did; and the same as CSV."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import BeforeValidator

from api.admin_figures import DAYS, read_overview
from api.admin_lists import find_by_id, read_actions, read_job_actions, read_person, read_users
from api.admin_pages import PREFIX, page, style_sheet
from api.csv_export import actions_csv, jobs_csv, ledger_csv
from api.dependencies import PartsDep, SessionDep
from api.errors import PROBLEMS
from api.staff_access import Staff, StaffDep
from shared import spending, staff_actions
from shared.errors import InvalidRequest, NotFound
from shared.job_story import NoOneJob, read_story
from shared.queue import COLLECT_QUEUE, MAINTENANCE_QUEUE, START_QUEUE
from shared.spending import Spending
from shared.states import ACTIVE_JOB, JobStatus

EXPORT_DAYS_MAX = 366
router = APIRouter(prefix=PREFIX, include_in_schema=False)

RowId = Annotated[int | None, Query(ge=0, lt=2**63)]


@router.get("")
async def show_overview(request: Request, parts: PartsDep, session: SessionDep, staff: StaffDep) -> Response:
    """Everything at one glance, as of one moment."""
    async with session.begin():
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        overview = await session.run_sync(read_overview)
        cost = await session.run_sync(Spending(parts.settings).month_cost)  # with nothing remembered
        pause = await session.run_sync(spending.open_pause)
    queues = {
        name: await to_thread.run_sync(parts.queue.length, name)
        for name in (START_QUEUE, COLLECT_QUEUE, MAINTENANCE_QUEUE)
    }
    return page(
        request,
        "overview",
        staff=staff,
        overview=overview,
        cost=cost,
        budget=parts.spending.budget_usd,
        pause=pause,
        told=PROBLEMS["paused"],
        queues=queues,
        days=DAYS,
    )


@router.get("/admin.css")
async def show_style_sheet(_staff: StaffDep) -> Response:
    return style_sheet()


@router.get("/users")
async def show_users(
    request: Request,
    session: SessionDep,
    staff: StaffDep,
    q: Annotated[str, Query(max_length=320)] = "",
    after: Annotated[str, Query(max_length=320)] = "",
) -> Response:
    """Found by how the address begins, or by the id of a user or a job."""
    q, after = (text.replace("\0", "").strip() for text in (q, after))
    async with session.begin():
        if q and (found := await session.run_sync(find_by_id, q)):
            return RedirectResponse(found, 303)
        users = await session.run_sync(read_users, q, after)
    return page(request, "users", staff=staff, users=users, q=q)


@router.get("/users/{user_id}")
async def show_user(
    request: Request,
    user_id: UUID,
    parts: PartsDep,
    session: SessionDep,
    staff: StaffDep,
    ledger_before: RowId = None,
    jobs_before: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """A user's balance, ledger and jobs, and what staff did for them."""
    async with session.begin():
        person = await session.run_sync(read_person, user_id, ledger_before, jobs_before)
    # The form's own number: sent twice, it grants once.
    return page(
        request, "user", staff=staff, person=person, nonce=uuid4(), max_credits=parts.settings.grant_max_credits
    )


@router.get("/jobs/{job_id}")
async def show_job(request: Request, job_id: UUID, session: SessionDep, staff: StaffDep) -> Response:
    """A job's whole story."""
    async with session.begin():
        try:
            story = await session.run_sync(read_story, job_id)
        except NoOneJob as error:
            raise NotFound from error
        actions = await session.run_sync(read_job_actions, job_id)
    status = story.job.status
    return page(
        request,
        "job",
        staff=staff,
        story=story,
        actions=actions,
        cancelable=status in ACTIVE_JOB,
        retriable=status is JobStatus.FAILED and story.job.portrait_deleted_at is None,
    )


@router.get("/actions")
async def show_actions(request: Request, session: SessionDep, staff: StaffDep, before: RowId = None) -> Response:
    """Who did what, when and on whom."""
    async with session.begin():
        actions = await session.run_sync(read_actions, before)
    return page(request, "actions", staff=staff, actions=actions)


# A form's field that is left empty comes as an empty word.
Day = Annotated[date | None, BeforeValidator(lambda given: given or None), Query()]


@router.get("/export/ledger.csv")
async def export_ledger(
    parts: PartsDep, session: SessionDep, staff: StaffDep, first: Day = None, last: Day = None
) -> Response:
    """The ledger of these days, or of the last thirty."""
    days = _days(first, last)
    return await _export(session, staff, "ledger", days, ledger_csv(parts.sessions, *days))


@router.get("/export/jobs.csv")
async def export_jobs(
    parts: PartsDep, session: SessionDep, staff: StaffDep, first: Day = None, last: Day = None
) -> Response:
    """How jobs ended, by day and style."""
    days = _days(first, last)
    return await _export(session, staff, "jobs", days, jobs_csv(parts.sessions, *days))


@router.get("/export/actions.csv")
async def export_actions(parts: PartsDep, session: SessionDep, staff: StaffDep) -> Response:
    """What staff did, from the beginning; this export, too."""
    return await _export(session, staff, "actions", None, actions_csv(parts.sessions))


def _days(first: date | None, last: date | None) -> tuple[date, date]:
    last = last or first or datetime.now(UTC).date()
    first = first or last - timedelta(days=DAYS - 1)
    if not 0 <= (last - first).days < EXPORT_DAYS_MAX:
        raise InvalidRequest(reason=f"Ask for 1 to {EXPORT_DAYS_MAX} days, the first one first.")
    return first, last


async def _export(
    session: SessionDep, staff: Staff, what: str, days: tuple[date, date] | None, lines: AsyncIterator[str]
) -> Response:
    """What leaves the house is written down before it does."""
    told = {} if days is None else {"first": days[0].isoformat(), "last": days[1].isoformat()}
    async with session.begin():
        await session.run_sync(lambda session: staff_actions.record(session, staff.actor, f"{what}.exported", told))
    headers = {"Content-Disposition": f'attachment; filename="cuggu-{what}.csv"', "Cache-Control": "no-store"}
    return StreamingResponse(lines, headers=headers, media_type="text/csv; charset=utf-8")
