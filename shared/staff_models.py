"""The tables of those who look after the system: who they are, what they did, and what they may stop."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import db_now
from shared.models import Base, words


class ActorKind(StrEnum):
    STAFF = "STAFF"  # a user with the staff role, by way of /admin
    SERVICE = "SERVICE"  # another system, by its service token
    COMMAND = "COMMAND"  # whoever typed `cuggu`


class Scope(StrEnum):
    """What a service token is good for."""

    GRANTS = "grants"


class StaffMember(Base):
    """A user who may open /admin. Who deletes their account is another user afterwards, and so no member any more."""

    __tablename__ = "staff_members"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())


class ServiceToken(Base):
    """Another system's right to call us. The token itself is shown once and kept nowhere.

    It is random and of 256 bits, so a plain SHA-256 of it cannot be turned back, and looking it up by that hash tells
    a guesser nothing by its time: a changed guess has an unrelated hash.
    """

    __tablename__ = "service_tokens"
    __table_args__ = (
        CheckConstraint("scope IN ('grants')", name="scope"),
        # A name is free again once its token is revoked; two tokens of one system need two names while both work.
        Index("uq_service_tokens_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    scope: Mapped[str]
    token_sha256: Mapped[str] = mapped_column(unique=True)  # in hex
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class StaffAction(Base):
    """One thing that somebody did beyond what users do. Rows are added; the database refuses to change or delete one.

    People are named by their user's id and never by their address, which may have to be forgotten.
    """

    __tablename__ = "staff_actions"
    __table_args__ = (
        CheckConstraint(
            "(actor_kind = 'STAFF') = (actor_user_id IS NOT NULL) AND "
            "(actor_kind = 'SERVICE') = (service_token_id IS NOT NULL) AND "
            "(actor_kind = 'COMMAND') = (actor_name IS NOT NULL)",
            name="one_actor",
        ),
        Index(None, "user_id", "id"),
        Index(None, "job_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=db_now())
    actor_kind: Mapped[ActorKind] = mapped_column(words(ActorKind))
    actor_user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    service_token_id: Mapped[UUID | None] = mapped_column(ForeignKey("service_tokens.id"))
    actor_name: Mapped[str | None]  # of the operating system's user, or as the command was told
    name: Mapped[str]  # in the past tense, such as credits.granted
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))  # on whom
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))  # on which job
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class Pause(Base):
    """A time in which no new jobs are taken, because somebody wished so; open until somebody resumes."""

    __tablename__ = "pauses"
    __table_args__ = (
        Index("uq_pauses_one_open", text("(ended_at IS NULL)"), unique=True, postgresql_where=text("ended_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    reason: Mapped[str]
    began_at: Mapped[datetime] = mapped_column(server_default=db_now())
    ended_at: Mapped[datetime | None]
