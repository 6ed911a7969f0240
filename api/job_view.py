"""Jobs as their owner sees them: hand-written reads, one statement each, straight to the wire's form."""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from api.eta import Durations, Eta, eta
from shared.errors import InvalidRequest, NotFound
from shared.states import ACTIVE_JOB, PhotoStatus

# What does not pass with time, as one text of JSON: a poll that finds it as it was need not take it apart.
# Not EXISTS: for a user of many jobs PostgreSQL would read the refunds of all users at once, and look there.
_LASTING = """
    CAST(json_build_object(
        'id', j.id, 'status', j.status, 'style', j.style, 'role', j.role, 'error_code', j.error_code,
        'selected_photo_id', j.selected_photo_id, 'created_at', j.created_at, 'completed_at', j.completed_at,
        'photos_deleted_at', j.photos_deleted_at, 'consent_version', j.consent_version,
        'portrait_id', CASE WHEN j.portrait_deleted_at IS NULL THEN j.portrait_id END,
        'refunded', (SELECT l.id FROM ledger_entries l WHERE l.job_id = j.id AND l.kind = 'REFUND') IS NOT NULL,
        'photos', (SELECT json_agg(json_build_object('id', p.id, 'slot', p.slot, 'status', p.status, 'width', p.width,
                                                     'height', p.height, 'gone', p.deleted_at IS NOT NULL)
                                   ORDER BY p.slot)
                     FROM photos p WHERE p.job_id = j.id)
    ) AS text) AS lasting
"""
_COLUMNS = f"""
    j.status, j.style, {_LASTING},
    CAST(extract(epoch FROM cuggu_now() - j.created_at) AS float) AS age_seconds
"""
_ONE = text(f"SELECT {_COLUMNS} FROM jobs j WHERE j.id = :job_id AND j.user_id = :user_id AND j.deleted_at IS NULL")  # noqa: S608
_PAGE = text(
    f"SELECT {_COLUMNS}, j.id, j.created_at FROM jobs j WHERE j.user_id = :user_id AND j.deleted_at IS NULL "  # noqa: S608
    "AND (CAST(:before AS timestamptz) IS NULL OR (j.created_at, j.id) < (:before, :before_id)) "
    "ORDER BY j.created_at DESC, j.id DESC LIMIT :limit"
)
# With whose each is. Ids as texts, in and out: to make UUIDs of them took a fourteenth of a poll (measured).
OWNED_JOBS = text(f"""
    SELECT {_COLUMNS}, CAST(j.id AS text) AS id, CAST(j.user_id AS text) AS user_id, u.email
    FROM jobs j JOIN users u ON u.id = j.user_id
    WHERE j.id = ANY(CAST(string_to_array(:job_ids, ' ') AS uuid[])) AND j.deleted_at IS NULL
""")  # noqa: S608
_MANY = text(
    f"SELECT {_COLUMNS}, j.id, u.credits AS remaining_credits "  # noqa: S608
    "FROM jobs j JOIN users u ON u.id = j.user_id WHERE j.id = ANY(:job_ids)"
)
_BALANCE = text("SELECT credits FROM users WHERE id = :user_id")

# Why a job ended as it did, in its user's words; every one of these says what it cost.
_ERRORS = {
    "moderated": (
        "안전 필터 때문에 사진을 만들지 못했습니다. 다른 사진이나 스타일로 시도해주세요",
        "The generator's safety filter stopped this photo. Please try another portrait or style",
    ),
    "bad_input": (
        "이 사진으로는 만들 수 없습니다. 다른 사진으로 시도해주세요",
        "The generator could not use this portrait. Please try another one",
    ),
    "deadline_exceeded": ("시간 안에 만들지 못했습니다", "The photos could not be made in time"),
    "canceled": ("취소한 작업입니다", "The job was canceled"),
}
_OTHER_ERROR = ("AI 생성 중 오류가 발생했습니다", "Something went wrong while making the photos")
_REFUNDED = ("크레딧은 환불되었습니다", "Your credit has been returned")


# About 2 kB each. A job that has ended renders as it did before, and so does one that waits.
RENDERED_JOBS = 1024


@dataclass(frozen=True, slots=True)
class RenderedJob:
    """The answer to a poll; the same `etag` for as long as nothing changes but the time that is left."""

    body: bytes
    etag: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Page:
    jobs: list[dict[str, Any]]
    next_cursor: str | None
    remaining_credits: int


async def read_job(
    session: AsyncSession, user_id: UUID, job_id: UUID, language: str, durations: Durations
) -> dict[str, Any]:
    """The job as `GET /jobs/{id}` answers it. Raises NotFound, for another user's job too."""
    row = (await session.execute(_ONE, {"job_id": job_id, "user_id": user_id})).mappings().one_or_none()
    if row is None:
        raise NotFound
    return _view(row, language, await _eta(session, row, durations))


async def read_ended_jobs(
    connection: AsyncConnection, job_ids: Sequence[UUID]
) -> Mapping[UUID, Callable[[str], dict[str, Any]]]:
    """How to tell each of these jobs, and the credits left, in a language. Whose they are is not asked."""
    if not job_ids:
        return {}
    rows = (await connection.execute(_MANY, {"job_ids": job_ids})).mappings().all()
    return {row["id"]: partial(_ended_view, row) for row in rows}


async def read_page(
    session: AsyncSession, user_id: UUID, limit: int, cursor: str | None, language: str, durations: Durations
) -> Page:
    """The user's jobs, newest first. Raises InvalidRequest for a cursor that is not one of ours."""
    before, before_id = _parse_cursor(cursor) if cursor else (None, None)
    parameters = {"user_id": user_id, "before": before, "before_id": before_id, "limit": limit + 1}
    rows = (await session.execute(_PAGE, parameters)).mappings().all()
    balance = await session.scalar(_BALANCE, {"user_id": user_id})
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    jobs = [_view(row, language, await _eta(session, row, durations)) for row in rows[:limit]]
    return Page(jobs, _cursor(last) if last else None, balance or 0)


def render(row: Row[Any], language: str, left: Eta | None) -> RenderedJob:
    """A row of `OWNED_JOBS` as bytes."""
    body, etag = _render_lasting(row.lasting, language)
    passing = (
        f',"eta_seconds":{left.p50_seconds},"eta_p90_seconds":{left.p90_seconds}}}'
        if left
        else ',"eta_seconds":null,"eta_p90_seconds":null}'
    )
    return RenderedJob(body + passing.encode(), etag, row.status in ACTIVE_JOB)


@lru_cache(RENDERED_JOBS)
def _render_lasting(lasting: str, language: str) -> tuple[bytes, str]:
    """What `_LASTING` says as an object that lacks its end, and the tag of it.

    A pure function of a row's content, so what it remembers is never out of date.
    """
    body = to_json(_lasting_view(lasting, language))
    return body[:-1], f'"{hashlib.sha256(body).hexdigest()[:24]}"'


def photo_view(photo: Mapping[str, Any]) -> dict[str, Any]:
    """A photo's id, slot, status, width and height, with its addresses while it is stored and not gone."""
    there = photo["status"] == PhotoStatus.STORED and not photo["gone"]
    url = f"/media/{photo['id']}" if there else None
    return {**photo, "url": url, "thumbnail_url": url and f"{url}/thumbnail"}


async def _eta(session: AsyncSession, row: RowMapping, durations: Durations) -> Eta | None:
    if row["status"] not in ACTIVE_JOB:
        return None
    return eta(await durations.of(session, row["style"]), row["age_seconds"])


def _ended_view(row: RowMapping, language: str) -> dict[str, Any]:
    return {**_view(row, language, None), "remaining_credits": row["remaining_credits"]}


def _view(row: RowMapping, language: str, left: Eta | None) -> dict[str, Any]:
    passing = {"eta_seconds": left and left.p50_seconds, "eta_p90_seconds": left and left.p90_seconds}
    return {**_lasting_view(row["lasting"], language), **passing}


def _lasting_view(lasting: str, language: str) -> dict[str, Any]:
    job = json.loads(lasting)
    photos = [photo_view(photo) for photo in job["photos"]]
    return {
        "id": job["id"],
        "status": job["status"],
        "style": job["style"],
        "role": job["role"],
        "progress": {"done": sum(photo["status"] == "STORED" for photo in photos), "total": len(photos)},
        "photos": photos,
        "portrait_url": f"/media/portraits/{job['portrait_id']}" if job["portrait_id"] else None,
        "selected_photo_id": job["selected_photo_id"],
        "photos_deleted_at": _time(job["photos_deleted_at"]),
        "consent_version": job["consent_version"],
        "error": _error(job["error_code"], job["refunded"], language),
        "created_at": _time(job["created_at"]),
        "completed_at": _time(job["completed_at"]),
    }


def _time(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)


def _error(code: str | None, refunded: bool, language: str) -> dict[str, Any] | None:
    if code is None:
        return None
    index = 0 if language == "ko" else 1
    told = _ERRORS.get(code, _OTHER_ERROR)[index]
    return {"code": code, "detail": f"{told}. {_REFUNDED[index]}" if refunded else told, "refunded": refunded}


def _cursor(row: RowMapping) -> str:
    return urlsafe_b64encode(f"{row['created_at'].isoformat()}|{row['id']}".encode()).decode()


def _parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, _, job_id = urlsafe_b64decode(cursor.encode()).decode().partition("|")
        return datetime.fromisoformat(created_at), UUID(job_id)
    except ValueError as error:
        raise InvalidRequest(fields=["cursor"]) from error
