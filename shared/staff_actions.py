"""The only writer of what staff, services and commands did: who, what, when, on whom and with what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.staff_models import ActorKind, StaffAction


@dataclass(frozen=True, slots=True)
class Actor:
    """Exactly one of the last three is set, as the kind says."""

    kind: ActorKind
    user_id: UUID | None = None
    service_token_id: UUID | None = None
    name: str | None = None

    @classmethod
    def staff(cls, user_id: UUID) -> "Actor":
        return cls(ActorKind.STAFF, user_id=user_id)

    @classmethod
    def service(cls, token_id: UUID) -> "Actor":
        return cls(ActorKind.SERVICE, service_token_id=token_id)

    @classmethod
    def command(cls, name: str) -> "Actor":
        return cls(ActorKind.COMMAND, name=name)


def record(
    session: Session,
    actor: Actor,
    name: str,
    details: Mapping[str, Any] | None = None,
    *,
    user_id: UUID | None = None,
    job_id: UUID | None = None,
) -> None:
    """Write it down in the transaction that does it, so that neither is there without the other."""
    session.execute(
        insert(StaffAction).values(
            actor_kind=actor.kind,
            actor_user_id=actor.user_id,
            service_token_id=actor.service_token_id,
            actor_name=actor.name,
            name=name,
            user_id=user_id,
            job_id=job_id,
            details=dict(details or {}),
        )
    )
