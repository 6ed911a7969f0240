"""What staff look up: users, one user's ledger and jobs, and what staff did. Pages go on after a key, at any depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from shared.errors import NotFound
from shared.job_story import NoOneJob, find_job

PAGE = 50
_AFTER_EVERY_LETTER = "\U0010ffff"

# Whose address was forgotten is found by the id.
_USERS = text("""
SELECT u.id, u.email, u.credits, u.created_at FROM users u
 WHERE u.email ~>=~ :first AND u.email ~<~ :last AND u.email ~>~ :after
 ORDER BY u.email USING ~<~ LIMIT :limit
""")
_USER = text("""
SELECT u.id, u.email, u.credits, u.created_at, EXISTS (SELECT FROM staff_members s WHERE s.user_id = u.id) AS staff
  FROM users u WHERE u.id = :id
""")
_LEDGER = text("""
SELECT id, kind, amount, balance_after, job_id, reference, created_at FROM ledger_entries
 WHERE user_id = :id AND id < :before ORDER BY id DESC LIMIT :limit
""")
_JOBS = text("""
SELECT id, style, role, status, error_code, created_at, completed_at, deleted_at FROM jobs
 WHERE user_id = :id AND (CAST(:before AS timestamptz) IS NULL OR (created_at, id) < (:before, :before_id))
 ORDER BY created_at DESC, id DESC LIMIT :limit
""")
_ACTIONS = """
SELECT a.id, a.at, a.actor_kind, coalesce(u.email, a.actor_user_id::text, t.name, a.actor_name) AS actor,
       a.name, a.user_id, a.job_id, a.details
  FROM staff_actions a
  LEFT JOIN users u ON u.id = a.actor_user_id
  LEFT JOIN service_tokens t ON t.id = a.service_token_id
 WHERE a.id < :before{condition} ORDER BY a.id DESC LIMIT :limit
"""
_ALL_ACTIONS = text(_ACTIONS.format(condition=""))
_USER_ACTIONS = text(_ACTIONS.format(condition=" AND a.user_id = :id"))
_JOB_ACTIONS = text(_ACTIONS.format(condition=" AND a.job_id = :id"))
_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Listed:
    """One page; `after` is what the next one begins after, None on the last."""

    rows: Sequence[RowMapping]
    after: str | None


@dataclass(frozen=True, slots=True)
class Person:
    user: RowMapping
    ledger: Listed
    jobs: Listed
    actions: Listed


def find_by_id(session: Session, words: str) -> str | None:
    """The address of the page of whom or what these words name by id; None if they name nothing."""
    try:
        if session.execute(_USER, {"id": UUID(words)}).first():
            return f"/admin/users/{UUID(words)}"
    except ValueError:
        pass
    try:
        return f"/admin/jobs/{find_job(session, words)}"
    except NoOneJob:
        return None


def read_users(session: Session, begins_with: str, after: str) -> Listed:
    """Users whose address begins with these letters, by their address."""
    first = begins_with.lower()
    bounds = {"first": first, "last": first + _AFTER_EVERY_LETTER, "after": after}
    return _listed(session, _USERS, bounds, "email")


def read_person(session: Session, user_id: UUID, ledger_before: int | None, jobs_before: str | None) -> Person:
    """Raises NotFound."""
    user = session.execute(_USER, {"id": user_id}).mappings().one_or_none()
    if user is None:
        raise NotFound
    at, _, job_id = (jobs_before or "").partition("_")
    try:
        place = {"before": datetime.fromisoformat(at), "before_id": UUID(job_id)} if at else None
    except ValueError as error:
        raise NotFound from error
    by_id = {"id": user_id, "before": ledger_before or _NEWEST}
    return Person(
        user,
        _listed(session, _LEDGER, by_id, "id"),
        _listed(session, _JOBS, {"id": user_id, **(place or {"before": None, "before_id": None})}, "created_at", "id"),
        _listed(session, _USER_ACTIONS, {"id": user_id, "before": _NEWEST}, "id"),
    )


def read_actions(session: Session, before: int | None) -> Listed:
    """What staff, services and commands did, the newest first."""
    return _listed(session, _ALL_ACTIONS, {"before": before or _NEWEST}, "id")


def read_job_actions(session: Session, job_id: UUID) -> Listed:
    return _listed(session, _JOB_ACTIONS, {"id": job_id, "before": _NEWEST}, "id")


def _listed(session: Session, statement: Any, bounds: dict[str, Any], *key: str) -> Listed:
    rows = session.execute(statement, {**bounds, "limit": PAGE + 1}).mappings().all()
    if len(rows) <= PAGE:
        return Listed(rows, None)
    last = rows[PAGE - 1]
    places = [last[name].isoformat() if isinstance(last[name], datetime) else str(last[name]) for name in key]
    return Listed(rows[:PAGE], "_".join(places))
