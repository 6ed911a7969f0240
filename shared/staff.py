"""Who is staff: users who may open /admin. Every function joins the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared import credits, staff_actions
from shared.models import User
from shared.staff_actions import Actor
from shared.staff_models import StaffMember


def add(session: Session, actor: Actor, email: str, signup_credits: int) -> bool:
    """Make this person staff, and a user if we never saw them; False if they are staff already."""
    user_id = credits.provision_user(session, email, signup_credits)
    added = session.scalar(
        upsert(StaffMember).values(user_id=user_id).on_conflict_do_nothing().returning(StaffMember.user_id)
    )
    if added is not None:
        staff_actions.record(session, actor, "staff.added", user_id=user_id)
    return added is not None


def remove(session: Session, actor: Actor, email: str) -> bool:
    """From their next request on they are a user like any other; False if they are no staff."""
    removed = session.scalar(
        delete(StaffMember)
        .where(StaffMember.user_id == select(User.id).where(User.email == email.strip().lower()).scalar_subquery())
        .returning(StaffMember.user_id)
    )
    if removed is not None:
        staff_actions.record(session, actor, "staff.removed", user_id=removed)
    return removed is not None


def members(session: Session) -> Sequence[tuple[UUID, str, datetime]]:
    """(user, address, since when), the first first."""
    rows = session.execute(
        select(User.id, User.email, StaffMember.created_at)
        .join(StaffMember, StaffMember.user_id == User.id)
        .order_by(StaffMember.created_at)
    )
    return [(row.id, row.email, row.created_at) for row in rows]


def find(session: Session, email: str) -> UUID | None:
    """The id of the staff member of this address. Nobody is made a user by being looked for."""
    return session.scalar(
        select(User.id).join(StaffMember, StaffMember.user_id == User.id).where(User.email == email.strip().lower())
    )
