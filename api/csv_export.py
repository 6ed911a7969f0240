"""Tables as CSV, made while they are sent: one batch of rows is in memory, and no connection is held between two."""

import csv
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from io import StringIO
from typing import Any

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

BATCH = 1000
# What a spreadsheet takes for a formula, which could send the other cells somewhere.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

_LEDGER = text("""
SELECT created_at, id, user_id, kind, amount, balance_after, job_id, reference FROM ledger_entries
 WHERE (created_at, id) > (:after, :after_id) AND created_at < :until
 ORDER BY created_at, id LIMIT :limit
""")
_ACTIONS = text("""
SELECT a.at, a.id, a.actor_kind, coalesce(a.actor_user_id::text, t.name, a.actor_name) AS actor, a.name, a.user_id,
       a.job_id, a.details
  FROM staff_actions a LEFT JOIN service_tokens t ON t.id = a.service_token_id
 WHERE a.id > :after_id ORDER BY a.id LIMIT :limit
""")
_JOBS_OF_A_DAY = text("""
SELECT style, count(*) AS ended, count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
       count(*) FILTER (WHERE status = 'PARTIAL') AS partial, count(*) FILTER (WHERE status = 'FAILED') AS failed,
       count(*) FILTER (WHERE status = 'CANCELED') AS canceled
  FROM jobs WHERE completed_at >= :since AND completed_at < :until GROUP BY style ORDER BY style
""")

Sessions = async_sessionmaker[AsyncSession]


async def ledger_csv(sessions: Sessions, first: date, last: date) -> AsyncIterator[str]:
    """Every movement of credits in these days (UTC), the oldest first."""
    columns = ("created_at", "id", "user_id", "kind", "amount", "balance_after", "job_id", "reference")
    yield _lines([columns])
    until = _begin(last + timedelta(days=1))
    place: dict[str, Any] = {"after": _begin(first), "after_id": -1}
    while rows := await _read(sessions, _LEDGER, {"until": until, "limit": BATCH, **place}):
        yield _lines([[row[name] for name in columns] for row in rows])
        place = {"after": rows[-1]["created_at"], "after_id": rows[-1]["id"]}


async def actions_csv(sessions: Sessions) -> AsyncIterator[str]:
    """Everything that staff, services and commands did, the oldest first. People stand there by their id."""
    columns = ("at", "id", "actor_kind", "actor", "name", "user_id", "job_id", "details")
    yield _lines([columns])
    after = 0
    while rows := await _read(sessions, _ACTIONS, {"after_id": after, "limit": BATCH}):
        yield _lines([[row[name] for name in columns] for row in rows])
        after = rows[-1]["id"]


async def jobs_csv(sessions: Sessions, first: date, last: date) -> AsyncIterator[str]:
    """How the jobs of each day (UTC) and style ended; one short statement a day."""
    columns = ("style", "ended", "completed", "partial", "failed", "canceled")
    yield _lines([("day", *columns)])
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        rows = await _read(sessions, _JOBS_OF_A_DAY, {"since": _begin(day), "until": _begin(day + timedelta(days=1))})
        if rows:
            yield _lines([[day, *(row[name] for name in columns)] for row in rows])


async def _read(sessions: Sessions, statement: Any, bounds: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    async with sessions() as session:
        return [dict(row) for row in (await session.execute(statement, bounds)).mappings()]


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _lines(rows: Sequence[Sequence[object]]) -> str:
    written = StringIO()
    csv.writer(written).writerows([[cell(value) for value in row] for row in rows])
    return written.getvalue()


def cell(value: object) -> object:
    """As it is written. Words that a spreadsheet would take for a formula get an apostrophe; numbers stay numbers."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        value = to_json(value).decode()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
