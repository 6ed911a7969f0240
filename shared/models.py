"""The tables. What a database can forbid is forbidden here, so that even wrong code cannot pay or settle twice.

Statuses are text with CHECK constraints, not PostgreSQL enums: old workers meet new rows during an upgrade.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database import db_now
from shared.states import (
    ACTIVE_JOB,
    ACTIVE_PHOTO,
    AttemptOutcome,
    DeliveryStatus,
    JobStatus,
    LedgerKind,
    PhotoStatus,
)


def _is_active(statuses: tuple[StrEnum, ...]) -> Any:
    return text(f"status IN ({', '.join(repr(str(status)) for status in statuses)})")


def words(kind: type[StrEnum]) -> Enum:
    """The type of a column of these words."""
    return Enum(kind, native_enum=False, create_constraint=True, length=16, name=kind.__name__.lower())


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012


class User(Base):
    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("credits >= 0", name="credits_not_negative"),
        # For addresses that begin with some letters, whatever the database's collation.
        Index("ix_users_email_prefix", "email", postgresql_ops={"email": "text_pattern_ops"}),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(unique=True)  # lower case; the site's key for a person
    credits: Mapped[int] = mapped_column(server_default=text("0"))  # written by shared/credits.py only
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())
    # At their wish. The row stays for its ledger; its `email` is a random pseudonym from then on, with no @ in it.
    deleted_at: Mapped[datetime | None]


class LedgerEntry(Base):
    """One movement of credits. Entries are added, never changed."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        CheckConstraint("(kind = 'CHARGE' AND amount < 0) OR (kind <> 'CHARGE' AND amount >= 0)", name="sign"),
        CheckConstraint("(kind IN ('CHARGE', 'REFUND')) = (job_id IS NOT NULL)", name="job_when_charged_or_refunded"),
        CheckConstraint("(kind = 'GRANT') = (reference IS NOT NULL)", name="reference_when_granted"),
        CheckConstraint("balance_after >= 0", name="balance_not_negative"),
        Index("uq_ledger_entries_one_signup", "user_id", unique=True, postgresql_where=text("kind = 'SIGNUP'")),
        UniqueConstraint("job_id", "kind"),  # one charge and one refund per job, whoever asks
        UniqueConstraint("reference"),
        Index(None, "user_id", "id"),
        Index(None, "created_at", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[LedgerKind] = mapped_column(words(LedgerKind))
    amount: Mapped[int]
    balance_after: Mapped[int]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    reference: Mapped[str | None]  # the shop's payment number, or ops' reason
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("user_id", "idempotency_key"),
        Index(None, "user_id", "created_at", "id"),
        # How long the latest jobs of a style took.
        Index("ix_jobs_completed", "style", "completed_at", postgresql_where=text("status = 'COMPLETED'")),
        Index("ix_jobs_overdue", "deadline_at", postgresql_where=_is_active(ACTIVE_JOB)),
        # What is counted by the day (api/admin_figures.py). A job that has ended keeps its status.
        Index(
            "ix_jobs_ended",
            "completed_at",
            postgresql_include=["style", "status"],
            postgresql_where=text("completed_at IS NOT NULL"),
        ),
        # Whose pictures will be due one day: the portraits of the last hour, the photos of the last month.
        Index(
            "ix_jobs_portrait_kept",
            "completed_at",
            postgresql_where=text("portrait_deleted_at IS NULL AND completed_at IS NOT NULL"),
        ),
        Index(
            "ix_jobs_photos_kept",
            "completed_at",
            postgresql_where=text("photos_deleted_at IS NULL AND completed_at IS NOT NULL"),
        ),
        CheckConstraint(
            "(status IN ('QUEUED', 'PROCESSING')) = (completed_at IS NULL)", name="completed_at_when_terminal"
        ),
        CheckConstraint(
            "(consent_version IS NULL) = (consented_at IS NULL) "
            "AND (consent_version IS NULL) = (consent_language IS NULL)",
            name="consent_whole",
        ),
        CheckConstraint(
            "deleted_at IS NULL OR (completed_at IS NOT NULL AND portrait_deleted_at IS NOT NULL)",
            name="nothing_left_when_deleted",
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    style: Mapped[str]
    role: Mapped[str | None]
    status: Mapped[JobStatus] = mapped_column(words(JobStatus), server_default=JobStatus.QUEUED.value)
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]  # for our eyes; users are told by the code
    # Random, and not the job's: whoever is shown a photo's address learns nothing about the portrait's.
    portrait_id: Mapped[UUID] = mapped_column(unique=True)
    portrait_deleted_at: Mapped[datetime | None]
    photos_deleted_at: Mapped[datetime | None]  # whatever photos it had: their time was over, or it was deleted
    deleted_at: Mapped[datetime | None]  # at its user's wish, and gone for them
    # Both are forgotten with the photos.
    idempotency_key: Mapped[str | None]
    request_fingerprint: Mapped[str]  # sha256 over picture, style and role; or empty
    # What its user agreed to, if the request said so (shared/consent.py).
    consent_version: Mapped[str | None]
    consent_language: Mapped[str | None]
    consented_at: Mapped[datetime | None]
    # Whether the site is told of the end. Known from the start, so that nobody who settles the job can forget it.
    delivery_wanted: Mapped[bool] = mapped_column(server_default=false())
    # Of the submission, for the log lines and the trace of every later step.
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    selected_photo_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("photos.id", name="fk_jobs_selected_photo_id_photos", use_alter=True)
    )
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())
    deadline_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]


class Photo(Base):
    __tablename__ = "photos"
    __table_args__ = (
        UniqueConstraint("job_id", "slot"),
        CheckConstraint("slot BETWEEN 0 AND 3", name="slot"),
        CheckConstraint(
            "(status = 'STORED') = (width IS NOT NULL AND height IS NOT NULL "
            "AND (object_key IS NOT NULL OR deleted_at IS NOT NULL))",
            name="object_when_stored",
        ),
        CheckConstraint(
            "deleted_at IS NULL OR (object_key IS NULL AND thumbnail_key IS NULL)", name="no_object_when_deleted"
        ),
        CheckConstraint("status IN ('PENDING', 'GENERATING') OR lease_token IS NULL", name="no_lease_when_ended"),
        # What the sweep reads every second: it holds the photos in work and never the history.
        Index("ix_photos_due", "next_check_at", postgresql_where=_is_active(ACTIVE_PHOTO)),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    slot: Mapped[int]
    status: Mapped[PhotoStatus] = mapped_column(words(PhotoStatus), server_default=PhotoStatus.PENDING.value)
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    # When somebody must look at this photo: at once when new, at the next poll while its prediction runs, and at
    # the lease's end while a worker holds it.
    next_check_at: Mapped[datetime] = mapped_column(server_default=db_now())
    sent_at: Mapped[datetime | None]  # when the queue was last told that it is due; empty once somebody acted
    lease_token: Mapped[UUID | None]  # fences off a worker that comes back after its lease
    object_key: Mapped[str | None]
    thumbnail_key: Mapped[str | None]  # photos stored by older workers have none
    width: Mapped[int | None]
    height: Mapped[int | None]
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    stored_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]  # with its job, after its time, or because its object was lost


class Attempt(Base):
    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("photo_id", "number"),
        UniqueConstraint("provider", "prediction_id"),
        # Two workers can never both be about to pay for one photo.
        Index("uq_attempts_one_open", "photo_id", unique=True, postgresql_where=text("outcome = 'OPEN'")),
        Index("ix_attempts_unclosed", "close_due_at", postgresql_where=text("close_due_at IS NOT NULL")),
        # What is counted by the day, and what a month has cost (api/admin_figures.py, shared/spending.py).
        Index("ix_attempts_ended", "ended_at", postgresql_include=["cost", "outcome", "model", "style"]),
        # What is counted over the whole history (shared/figures.py).
        Index("ix_attempts_lost", "ended_at", postgresql_where=text("outcome = 'LOST'")),
        Index("ix_attempts_duplicate", "cost", postgresql_where=text("error_code = 'duplicate'")),
        CheckConstraint("(outcome = 'OPEN') = (ended_at IS NULL)", name="ended_at_when_ended"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    photo_id: Mapped[UUID] = mapped_column(ForeignKey("photos.id"))
    number: Mapped[int]  # 1 for the first try
    provider: Mapped[str]
    model: Mapped[str]
    style: Mapped[str | None]  # the job's, so that costs are added up without a join; older workers wrote none
    seed: Mapped[int] = mapped_column(BigInteger)
    prediction_id: Mapped[str | None]
    outcome: Mapped[AttemptOutcome] = mapped_column(words(AttemptOutcome), server_default=AttemptOutcome.OPEN.value)
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    cost: Mapped[Decimal] = mapped_column(Numeric(10, 4), server_default=text("0"))
    currency: Mapped[str] = mapped_column(server_default="USD")
    provider_seconds: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())  # before the create call
    submitted_at: Mapped[datetime | None]  # when its prediction id was written down
    ended_at: Mapped[datetime | None]
    # Set when the photo ended without this prediction: it must be stopped and its cost booked.
    close_due_at: Mapped[datetime | None]


class Delivery(Base):
    """The webhook that tells the site of one job's end, tried until it is taken or its time is over."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("job_id"),  # a job ends once
        CheckConstraint("(status = 'WAITING') = (next_try_at IS NOT NULL)", name="next_try_at_when_waiting"),
        CheckConstraint("(status = 'WAITING') = (ended_at IS NULL)", name="ended_at_when_ended"),
        Index("ix_deliveries_due", "next_try_at", postgresql_where=text("status = 'WAITING'")),
        Index("ix_deliveries_given_up", "ended_at", postgresql_where=text("status = 'GIVEN_UP'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    status: Mapped[DeliveryStatus] = mapped_column(words(DeliveryStatus), server_default=DeliveryStatus.WAITING.value)
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    # When it may be tried, or tried again; during a try, when that one counts as lost.
    next_try_at: Mapped[datetime | None] = mapped_column(server_default=db_now())
    sent_at: Mapped[datetime | None]  # when the queue was last told that it is due; empty once a try has ended
    last_status: Mapped[int | None]  # what the last try was answered with, if it was
    last_error: Mapped[str | None]  # why it was not taken, in our words
    created_at: Mapped[datetime] = mapped_column(server_default=db_now())  # the job's end
    first_tried_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class JobEvent(Base):
    """What happened to a job, in order: the story that `cuggu jobs show` tells and that streams resume from.

    Written under the job's row lock, so within one job the order of ids is the order of commits.
    """

    __tablename__ = "job_events"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    photo_id: Mapped[UUID | None] = mapped_column(ForeignKey("photos.id"))
    name: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    at: Mapped[datetime] = mapped_column(server_default=db_now())
