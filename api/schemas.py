"""The wire's forms: what clients send and receive. Times are RFC 3339 in UTC, ids are UUIDs."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from shared.granting import RETRY_PREFIX, STAFF_PREFIX
from shared.states import JobStatus, LedgerKind, PhotoStatus
from shared.styles import Role, Style

EMAIL_PATTERN = r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"
_ONE_LINE = r"^[^\x00-\x1f\x7f]+$"


class Progress(BaseModel):
    done: int = Field(description="photos stored")
    total: int


class PhotoOut(BaseModel):
    id: UUID
    slot: int = Field(ge=0, le=3)
    status: PhotoStatus
    url: str | None = Field(description="stable address of a stored photo, relative to the API; null once it is gone")
    thumbnail_url: str | None = Field(None, description="the same photo, small, as WebP of at most 2.4 kB")
    width: int | None = Field(description="pixels")
    height: int | None = Field(description="pixels")
    gone: bool = Field(False, description="it was stored, and is deleted by now or was lost")


class JobError(BaseModel):
    code: str
    detail: str = Field(description="a sentence for the user, by Accept-Language")
    refunded: bool = Field(description="whether the job's credit has been given back")


class JobOut(BaseModel):
    id: UUID
    status: JobStatus
    style: Style
    role: Role | None
    progress: Progress
    photos: list[PhotoOut]
    portrait_url: str | None = Field(description="null once the portrait has been deleted")
    selected_photo_id: UUID | None
    photos_deleted_at: datetime | None = Field(None, description="when its photos were deleted because of their age")
    consent_version: str | None = Field(None, description="the text of `GET /consent` that was agreed to")
    error: JobError | None
    eta_seconds: float | None = Field(
        description="what is left, as half of the latest jobs like it needed; null while it is not known"
    )
    eta_p90_seconds: float | None = Field(None, description="the same, as nine in ten of them needed")
    created_at: datetime
    completed_at: datetime | None


class SubmittedOut(JobOut):
    remaining_credits: int | None = Field(description="from the ledger entry just written; null for a replay")


class JobPage(BaseModel):
    jobs: list[JobOut]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last one")
    remaining_credits: int


class SelectionIn(BaseModel):
    photo_id: UUID


class MeOut(BaseModel):
    id: UUID
    email: str
    credits: int


class ConsentOut(BaseModel):
    version: str = Field(description="send it as `consent` with the job of a user who agreed")
    required: bool = Field(description="whether jobs are refused without it")
    language: str
    text: str = Field(description="in that language, as plain lines")


class SignInIn(BaseModel):
    email: str = Field(pattern=EMAIL_PATTERN, max_length=320)


class LedgerEntryOut(BaseModel):
    kind: LedgerKind
    amount: int
    balance_after: int
    job_id: UUID | None
    reference: str | None
    created_at: datetime


class CreditsOut(BaseModel):
    credits: int
    entries: list[LedgerEntryOut] = Field(description="newest first")


class GrantIn(BaseModel):
    """To exactly one of `email` and `user_id`."""

    email: str | None = Field(None, pattern=EMAIL_PATTERN, max_length=320, description="made a user if never seen")
    user_id: UUID | None = None
    amount: int = Field(ge=1, lt=2**31, description="credits; no more than GRANT_MAX_CREDITS")
    reference: str = Field(
        pattern=_ONE_LINE, max_length=200, description="the payment's number: the same one grants once"
    )

    @model_validator(mode="after")
    def _is_to_one_user_and_by_a_reference_of_the_sender_s_own(self) -> Self:
        if (self.email is None) == (self.user_id is None):
            raise ValueError("name the user by email or by user_id")
        if self.reference.startswith((STAFF_PREFIX, RETRY_PREFIX)):
            raise ValueError("references of this form are the system's own")
        return self


class GrantOut(BaseModel):
    user_id: UUID
    amount: int
    reference: str
    credits: int = Field(description="the user's balance now")
    granted: bool = Field(description="false: the same reference had granted it before, and nothing was added")


class StyleOut(BaseModel):
    key: Style
    label_ko: str
    label_en: str
    description_ko: str
    description_en: str
    sample_url: str | None


class ProblemOut(BaseModel):
    """RFC 9457 problem details, as `application/problem+json`; some codes add numbers of their own."""

    type: str
    status: int
    code: str
    detail: str
