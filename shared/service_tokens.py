"""Service tokens: made, shown once, believed by their hash, revoked. Every function joins the caller's transaction."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared import staff_actions
from shared.database import db_now
from shared.errors import Unauthorized
from shared.staff_actions import Actor
from shared.staff_models import Scope, ServiceToken

PREFIX = "cst_"  # by which a log, or whoever searches for leaked secrets, knows one
_RANDOM_BYTES = 32
_LENGTH = len(PREFIX) + 43  # base64 of 32 bytes


class NameTaken(Exception):
    """Another token of this name is not revoked."""


def create(session: Session, actor: Actor, name: str, scope: Scope, days: int | None = None) -> str:
    """A new token, which nobody can be told again; it works for so many days, or until it is revoked.

    Raises NameTaken.
    """
    token = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    created = session.scalar(
        upsert(ServiceToken)
        .values(
            name=name,
            scope=scope.value,
            token_sha256=_hash(token),
            expires_at=None if days is None else db_now() + timedelta(days=days),
        )
        .on_conflict_do_nothing(index_elements=[ServiceToken.name], index_where=ServiceToken.revoked_at.is_(None))
        .returning(ServiceToken.id)
    )
    if created is None:
        raise NameTaken
    told = {"token_id": str(created), "name": name, "scope": scope.value, "days": days}
    staff_actions.record(session, actor, "service_token.created", told)
    return token


def revoke(session: Session, actor: Actor, name: str) -> bool:
    """It opens nothing from now on; False if there is no such token, or none that was not revoked before."""
    revoked = session.scalar(
        update(ServiceToken)
        .where(ServiceToken.name == name, ServiceToken.revoked_at.is_(None))
        .values(revoked_at=db_now())
        .returning(ServiceToken.id)
        .execution_options(synchronize_session=False)
    )
    if revoked is not None:
        staff_actions.record(session, actor, "service_token.revoked", {"token_id": str(revoked), "name": name})
    return revoked is not None


def known(session: Session) -> Sequence[ServiceToken]:
    """All of them, the oldest first; the revoked ones too."""
    return session.scalars(select(ServiceToken).order_by(ServiceToken.created_at)).all()


def use(session: Session, token: str, scope: Scope) -> UUID:
    """The id of a token that works now for this. Raises Unauthorized."""
    if not token.startswith(PREFIX) or len(token) != _LENGTH:
        raise Unauthorized
    used = session.scalar(
        update(ServiceToken)
        .where(
            ServiceToken.token_sha256 == _hash(token),
            ServiceToken.scope == scope.value,
            ServiceToken.revoked_at.is_(None),
            or_(ServiceToken.expires_at.is_(None), ServiceToken.expires_at > db_now()),
        )
        .values(last_used_at=func.greatest(ServiceToken.last_used_at, db_now()))
        .returning(ServiceToken.id)
        .execution_options(synchronize_session=False)
    )
    if used is None:
        raise Unauthorized
    return used


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
