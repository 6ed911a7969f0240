"""Who is staff: users who may open /admin. Every function joins the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared import credits, staff_actions
from shared.former_addresses import address_key
from shared.models import User
from shared.settings import Settings
from shared.staff_actions import Actor
from shared.staff_models import StaffMember


def add(session: Session, actor: Actor, email: str, settings: Settings) -> bool:
    """Make this person staff, and a user if we never saw them; False if they are staff already."""
    user_id = credits.provision_user(session, email, settings.signup_credits, address_key=address_key(settings))
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
        .where(User.deleted_at.is_(None))
        .order_by(StaffMember.created_at)
    )
    return [(row.id, row.email, row.created_at) for row in rows]


def address_of(session: Session, user_id: UUID) -> str | None:
    """The address of this member of the staff; None if the user is none, or has deleted their account."""
    return session.scalar(
        select(User.email)
        .join(StaffMember, StaffMember.user_id == User.id)
        .where(User.id == user_id, User.deleted_at.is_(None))
    )
