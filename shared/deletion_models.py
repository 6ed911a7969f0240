"""The tables of what goes: users' wishes, the objects that no row promises, and what is remembered of who left."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import db_now
from shared.models import Base, words
from shared.states import DeletionKind


class Deletion(Base):
    """The record of a user's wish: what was deleted and when, and when the last of its objects was surely gone."""

    __tablename__ = "deletions"
    __table_args__ = (
        CheckConstraint("(kind = 'JOB') = (job_id IS NOT NULL)", name="job_when_of_a_job"),
        Index(None, "user_id"),
        Index("ix_deletions_open", "requested_at", postgresql_where=text("gone_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[DeletionKind] = mapped_column(words(DeletionKind))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    objects: Mapped[int] = mapped_column(server_default=text("0"))  # portraits, photos and thumbnails let go
    requested_at: Mapped[datetime] = mapped_column(server_default=db_now())
    gone_at: Mapped[datetime | None]


class LooseObject(Base):
    """An object that may lie in the storage although no row promises it: not yet, or no more.

    Written before the object is put, and taken away by the transaction that writes the promising row. What is still
    here when `delete_after` has come is deleted from the storage.
    """

    __tablename__ = "loose_objects"
    __table_args__ = (
        Index(None, "delete_after"),
        Index("ix_loose_objects_deletion", "deletion_id", postgresql_where=text("deletion_id IS NOT NULL")),
    )

    object_key: Mapped[str] = mapped_column(primary_key=True)
    delete_after: Mapped[datetime]
    # Somebody may still be putting it: until then it is deleted again and again.
    again_after: Mapped[datetime | None]
    deletion_id: Mapped[UUID | None] = mapped_column(ForeignKey("deletions.id"))  # the wish it goes by


class StorageLook(Base):
    """How far the look over the whole storage has come; one row (shared/mending.py)."""

    __tablename__ = "storage_looks"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(primary_key=True, server_default=text("1"))
    position: Mapped[str] = mapped_column(server_default=text("''"))  # the last key that was looked at
    busy_until: Mapped[datetime] = mapped_column(server_default=db_now())  # nobody else looks until then
    begun_at: Mapped[datetime] = mapped_column(server_default=db_now())
    ended_at: Mapped[datetime | None]  # of this look; empty while it goes on


class FormerAddress(Base):
    """An address whose account was deleted, known again by whoever holds the key and by nobody else.

    It gets no second sign-up grant, and a token issued before the deletion brings no account back.
    """

    __tablename__ = "former_addresses"

    address_hash: Mapped[str] = mapped_column(primary_key=True)  # keyed: see shared/former_addresses.py
    left_at: Mapped[datetime] = mapped_column(server_default=db_now())
