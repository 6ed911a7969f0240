"""One job's whole story, read from the rows: what happened to it and to its photos, and what it cost, in time order."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from shared.free_retry import reference_of
from shared.models import Attempt, Delivery, Job, JobEvent, LedgerEntry, Photo, User

ID_DIGITS = 32
ID_DIGITS_MIN = 8

# Rows of one transaction bear one time. Then an attempt's end explains its photo's, that one its job's, and that one
# the credit's; a grant comes before the charge that it pays for. The site is told last.
_RANKS = ("attempt ended", "photo", "attempt began", "job", "ledger", "delivery")


class NoOneJob(Exception):
    """The id does not name exactly one job; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened; `slot` is the photo's, if it happened to one."""

    at: datetime
    what: str
    slot: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Story:
    job: Job
    email: str
    states: list[tuple[str, datetime]]
    photos: list[Photo]
    attempts: list[tuple[int, Attempt]]  # with the photo's slot
    ledger: list[LedgerEntry]
    delivery: Delivery | None  # of the webhook that tells the site of the job's end
    costs: dict[str, Decimal]  # by currency
    lines: list[Line]


def find_job(session: Session, words: str) -> UUID:
    """The job whose id this is, or begins with, hyphens or not. Raises NoOneJob."""
    digits = words.strip().lower().replace("-", "")
    if not ID_DIGITS_MIN <= len(digits) <= ID_DIGITS or set(digits) - set("0123456789abcdef"):
        raise NoOneJob(f"{words!r} is not a job's id, nor the first {ID_DIGITS_MIN} or more digits of one.")
    first, last = (UUID(digits.ljust(ID_DIGITS, end)) for end in "0f")
    found = session.scalars(select(Job.id).where(Job.id.between(first, last)).order_by(Job.id).limit(2)).all()
    if not found:
        raise NoOneJob(f"There is no job {words}.")
    if len(found) > 1:
        raise NoOneJob(f"More than one job's id begins with {words}: {found[0]}, {found[1]} ... Give more of it.")
    return found[0]


def read_story(session: Session, job_id: UUID) -> Story:
    """All that is written about the job. Raises NoOneJob."""
    row = session.execute(select(Job, User.email).join(User, User.id == Job.user_id).where(Job.id == job_id)).first()
    if row is None:
        raise NoOneJob(f"There is no job {job_id}.")
    job, email = row
    photos = session.scalars(select(Photo).where(Photo.job_id == job_id).order_by(Photo.slot)).all()
    slots = {photo.id: photo.slot for photo in photos}
    events = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id)).all()
    tried = session.scalars(
        select(Attempt).where(Attempt.photo_id.in_(slots)).order_by(Attempt.created_at, Attempt.number)
    ).all()
    # A retry's grant belongs to both jobs: to the one that it pays for, and to the one that failed.
    references = [reference_of(job_id), *(event.data["reference"] for event in events if "reference" in event.data)]
    ledger = session.scalars(
        select(LedgerEntry)
        .where(or_(LedgerEntry.job_id == job_id, LedgerEntry.reference.in_(references)))
        .order_by(LedgerEntry.id)
    ).all()
    delivery = session.scalar(select(Delivery).where(Delivery.job_id == job_id))
    costs: dict[str, Decimal] = {}
    for attempt in tried:
        costs[attempt.currency] = costs.get(attempt.currency, Decimal(0)) + attempt.cost
    attempts = sorted(((slots[attempt.photo_id], attempt) for attempt in tried), key=lambda of: (of[0], of[1].number))
    told = [
        *((_rank_of(event), _event_line(event, slots)) for event in events),
        *(line for slot, attempt in attempts for line in _attempt_lines(slot, attempt)),
        *((_RANKS.index("ledger"), _ledger_line(entry)) for entry in ledger),
        *((_RANKS.index("delivery"), line) for line in _delivery_lines(delivery)),
    ]
    lines = [line for _, line in sorted(told, key=lambda ranked: (ranked[1].at, ranked[0]))]
    return Story(job, email, _states(job, events), list(photos), attempts, list(ledger), delivery, costs, lines)


def _states(job: Job, events: Any) -> list[tuple[str, datetime]]:
    states = [("QUEUED", job.created_at)]
    started = [event.at for event in events if event.name == "photo.started"]
    if started:
        states.append(("PROCESSING", min(started)))
    if job.completed_at is not None:
        states.append((job.status.value, job.completed_at))
    return states


def _rank_of(event: JobEvent) -> int:
    return _RANKS.index("photo" if event.photo_id else "job")


def _event_line(event: JobEvent, slots: dict[UUID, int]) -> Line:
    details = {name: value for name, value in event.data.items() if name != "slot" and value is not None}
    return Line(event.at, event.name, slots.get(event.photo_id) if event.photo_id else None, details)


def _attempt_lines(slot: int, attempt: Attempt) -> list[tuple[int, Line]]:
    name = f"attempt {attempt.number}"
    began = {"provider": attempt.provider, "model": attempt.model, "seed": attempt.seed}
    lines = [(_RANKS.index("attempt began"), Line(attempt.created_at, f"{name} began", slot, began))]
    if attempt.submitted_at is not None:
        submitted = {"prediction_id": attempt.prediction_id}
        lines.append((_RANKS.index("attempt began"), Line(attempt.submitted_at, f"{name} submitted", slot, submitted)))
    if attempt.ended_at is not None:
        ended = {
            "error_code": attempt.error_code,
            "error_detail": attempt.error_detail,
            "cost": f"{attempt.cost} {attempt.currency}",
            "provider_seconds": attempt.provider_seconds,
        }
        told = {key: value for key, value in ended.items() if value is not None}
        line = Line(attempt.ended_at, f"{name} {attempt.outcome}", slot, told)
        lines.append((_RANKS.index("attempt ended"), line))
    return lines


def _ledger_line(entry: LedgerEntry) -> Line:
    details: dict[str, Any] = {"amount": f"{entry.amount:+d}", "balance_after": entry.balance_after}
    if entry.reference is not None:
        details["reference"] = entry.reference
    return Line(entry.created_at, f"credit {entry.kind}", details=details)


def _delivery_lines(delivery: Delivery | None) -> list[Line]:
    """Single tries are in the log; the row knows the first and what came of the last."""
    if delivery is None:
        return []
    lines = []
    if delivery.first_tried_at is not None:
        lines.append(Line(delivery.first_tried_at, "delivery first tried", details={"delivery_id": delivery.id}))
    if delivery.ended_at is not None:
        told = {"tries": delivery.tries, "status": delivery.last_status, "error": delivery.last_error}
        details = {name: value for name, value in told.items() if value is not None}
        lines.append(Line(delivery.ended_at, f"delivery {delivery.status}", details=details))
    return lines
