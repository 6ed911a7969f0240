"""The independent judge: what happened, by plain SQL, the provider's own books and the bucket's listing.

It shares no code with the product, so that a mistake there cannot hide itself: this file imports nothing of it, and a
test says so. What must hold is written anew, from the promises alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import psycopg
from PIL import Image
from psycopg.rows import dict_row

Row = dict[str, Any]

ENDED = {"COMPLETED", "PARTIAL", "FAILED", "CANCELED"}
PHOTOS, PRICE_CREDITS = 4, 1
# Which statuses a photo may have when an event comes, and the one it has then. An attempt that the provider surely
# did not take is withdrawn without an event, so a start may follow a start.
PHOTO_ARROWS = {
    "photo.started": ({"PENDING", "GENERATING"}, "GENERATING"),
    "photo.retried": ({"GENERATING"}, "PENDING"),
    "photo.stored": ({"GENERATING"}, "STORED"),
    "photo.failed": ({"GENERATING"}, "FAILED"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a user was told of one order, under one Idempotency-Key: every job that an answer named, and complaints."""

    seed: int
    email: str
    key: str
    job_ids: tuple[UUID, ...]
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `about` is the row, key or prediction; `email` leads to the seed, where it is known."""

    promise: str
    about: str
    says: str
    email: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """Every row that counts, as of one moment."""

    users: Sequence[Row]
    ledger: Sequence[Row]
    jobs: Sequence[Row]
    photos: Sequence[Row]
    attempts: Sequence[Row]
    events: Sequence[Row]
    loose: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Books:
    """What others wrote down: the provider's predictions, and the bucket's objects by key with their sizes."""

    predictions: Sequence[Row]
    objects: Mapping[str, int]


@dataclass
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    unknowable: list[str] = field(default_factory=list)  # slots paid for twice where the provider let nobody know

    def count(self, *promises: str) -> int:
        """How many rows or slots offend against any of these promises."""
        return len({violation.about for violation in self.violations if violation.promise in promises})


def read_rows(database_url: str) -> Rows:
    """Raises psycopg.OperationalError while the database is away."""
    with psycopg.connect(database_url, connect_timeout=3, row_factory=dict_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def every(statement: str) -> list[Row]:
            return connection.execute(statement).fetchall()

        return Rows(
            users=every("SELECT id, email, credits FROM users"),
            ledger=every("SELECT id, user_id, kind, amount, balance_after, job_id FROM ledger_entries ORDER BY id"),
            jobs=every(
                "SELECT j.id, j.user_id, u.email, j.status, j.idempotency_key, j.portrait_id, j.portrait_deleted_at, "
                "j.completed_at FROM jobs j JOIN users u ON u.id = j.user_id"
            ),
            photos=every(
                "SELECT id, job_id, slot, status, lease_token, object_key, size_bytes, thumbnail_key FROM photos"
            ),
            attempts=every("SELECT id, photo_id, prediction_id, outcome, cost, created_at, close_due_at FROM attempts"),
            events=every("SELECT id, job_id, photo_id, name FROM job_events ORDER BY id"),
            loose=every("SELECT object_key FROM loose_objects"),
        )


def judge_rows(rows: Rows) -> list[Violation]:
    """I1, I2, I3 and I7, as far as rows can tell, at any moment: jobs in work are judged by what must hold for them."""
    return [*_balances(rows), *_credits(rows), *_ends(rows), *_arrows(rows)]


def judge(rows: Rows, books: Books, claims: Iterable[Claim]) -> Verdict:
    """All that must hold once everything has ended and every loose object has had its time."""
    payments, unknowable = _payments(rows, books.predictions)
    return Verdict(
        [
            *judge_rows(rows),
            *_claims(rows, claims),
            *_unended(rows),
            *payments,
            *_bookings(rows, books.predictions),
            *_objects(rows, books.objects),
        ],
        unknowable,
    )


def judge_photo(key: str, body: bytes) -> list[Violation]:
    """A photo that was paid for must be one."""
    try:
        with Image.open(BytesIO(body)) as picture:
            picture.load()
    except OSError as error:
        return [Violation("I2", key, f"it does not decode: {error}")]
    return []


def _balances(rows: Rows) -> Iterator[Violation]:
    sums: Counter[UUID] = Counter()
    emails = {user["id"]: user["email"] for user in rows.users}
    for entry in rows.ledger:
        sums[entry["user_id"]] += entry["amount"]
        balance = sums[entry["user_id"]]
        if entry["balance_after"] != balance or balance < 0:
            says = f"entry {entry['id']} leaves {entry['balance_after']}, the entries so far sum to {balance}"
            yield Violation("I1", str(entry["user_id"]), says, emails.get(entry["user_id"], ""))
    for user in rows.users:
        if user["credits"] != sums[user["id"]] or user["credits"] < 0:
            says = f"has {user['credits']} credits, the ledger sums to {sums[user['id']]}"
            yield Violation("I1", str(user["id"]), says, user["email"])


def _credits(rows: Rows) -> Iterator[Violation]:
    moved: defaultdict[tuple[UUID, str], list[Row]] = defaultdict(list)
    for entry in rows.ledger:
        if entry["job_id"] is not None:
            moved[entry["job_id"], entry["kind"]].append(entry)
    stored = _stored(rows)
    for job in rows.jobs:
        status, count = job["status"], stored[job["id"]]
        keeps = status not in ENDED or status == "COMPLETED" or (status == "CANCELED" and count > 0)
        charges, refunds = (moved[job["id"], kind] for kind in ("CHARGE", "REFUND"))
        right = (
            [entry["amount"] for entry in charges] == [-PRICE_CREDITS]
            and [entry["amount"] for entry in refunds] == ([] if keeps else [PRICE_CREDITS])
            and {entry["user_id"] for entry in (*charges, *refunds)} == {job["user_id"]}
        )
        fits = {
            "COMPLETED": count == PHOTOS,
            "PARTIAL": 0 < count < PHOTOS,
            "FAILED": count == 0,
            "CANCELED": count < PHOTOS,
        }.get(status, True)
        if not right or not fits:
            says = f"{status} with {count} stored photos, {len(charges)} charges and {len(refunds)} refunds"
            yield Violation("I2", str(job["id"]), says, job["email"])


def _ends(rows: Rows) -> Iterator[Violation]:
    ends: defaultdict[UUID, list[str]] = defaultdict(list)
    for event in rows.events:
        if event["name"].removeprefix("job.").upper() in ENDED:
            ends[event["job_id"]].append(event["name"])
    active = {job["id"]: job["status"] not in ENDED for job in rows.jobs}
    for job in rows.jobs:
        wanted = [] if active[job["id"]] else [f"job.{job['status'].lower()}"]
        if ends[job["id"]] != wanted or (job["completed_at"] is None) != active[job["id"]]:
            says = f"{job['status']}, ended by {ends[job['id']] or 'nothing'} at {job['completed_at']}"
            yield Violation("I3", str(job["id"]), says, job["email"])
    for photo in rows.photos:
        in_work = photo["status"] in ("PENDING", "GENERATING")
        if (in_work and not active[photo["job_id"]]) or (photo["lease_token"] is not None and not in_work):
            says = f"photo {photo['id']} is {photo['status']}, of a job that has ended, or leased after its end"
            yield Violation("I3", str(photo["job_id"]), says)


def _arrows(rows: Rows) -> Iterator[Violation]:
    told: defaultdict[UUID, list[Row]] = defaultdict(list)
    for event in rows.events:
        told[event["job_id"]].append(event)
    states = {photo["id"]: "PENDING" for photo in rows.photos}
    for job in rows.jobs:
        names = [event["name"] for event in told[job["id"]] if event["name"] != "photo.selected"]
        if names[:1] != ["job.accepted"] or names.count("job.accepted") != 1:
            yield Violation("I7", str(job["id"]), f"its story begins with {names[:2]}", job["email"])
        for number, event in enumerate(told[job["id"]]):
            if event["name"] in PHOTO_ARROWS:
                before, after = PHOTO_ARROWS[event["name"]]
                if states[event["photo_id"]] not in before:
                    says = f"photo {event['photo_id']} was {states[event['photo_id']]} when {event['name']}"
                    yield Violation("I7", str(job["id"]), says, job["email"])
                states[event["photo_id"]] = after
            elif event["name"].removeprefix("job.").upper() in ENDED:
                late = [later["name"] for later in told[job["id"]][number + 1 :] if later["name"] in PHOTO_ARROWS]
                if late:
                    yield Violation("I7", str(job["id"]), f"{late} came after {event['name']}", job["email"])
    statuses = {job["id"]: job["status"] for job in rows.jobs}
    for photo in rows.photos:
        by_job = {"CANCELED": {"CANCELED"}, "FAILED": {"PARTIAL", "FAILED"}}.get(photo["status"], set[str]())
        state, in_work = states[photo["id"]], photo["status"] in ("PENDING", "GENERATING")
        ended_by_job = statuses[photo["job_id"]] in by_job and state in ("PENDING", "GENERATING")
        # A withdrawn attempt leaves no event.
        if photo["status"] != state and not ended_by_job and not (in_work and state == "GENERATING"):
            says = f"photo {photo['id']} is {photo['status']}, its story leads to {state}"
            yield Violation("I7", str(photo["job_id"]), says)


def _claims(rows: Rows, claims: Iterable[Claim]) -> Iterator[Violation]:
    of_key: defaultdict[tuple[str, str], list[UUID]] = defaultdict(list)
    there, told = {job["id"] for job in rows.jobs}, set[UUID]()
    for job in rows.jobs:
        of_key[job["email"], job["idempotency_key"]].append(job["id"])
    for claim in claims:
        told.update(claim.job_ids)
        rowed = of_key.pop((claim.email, claim.key), [])
        if len(set(claim.job_ids)) > 1 or len(rowed) > 1:
            says = f"one key names {sorted(map(str, {*claim.job_ids, *rowed}))}"
            yield Violation("I8", claim.key, says, claim.email)
        for complaint in claim.complaints:
            yield Violation("I8", claim.key, complaint, claim.email)
        for job_id in set(claim.job_ids) - there:
            yield Violation("lost", str(job_id), "it was accepted, and there is no row of it", claim.email)
    for (email, key), job_ids in of_key.items():
        if untold := set(job_ids) - told:  # a job that its user deleted has forgotten its key
            yield Violation("untold", str(key), f"it was charged, and nobody was told of {untold}", email)


def _unended(rows: Rows) -> Iterator[Violation]:
    for job in rows.jobs:
        if job["status"] not in ENDED:
            yield Violation("stuck", str(job["id"]), f"it is {job['status']} for ever", job["email"])


def _payments(rows: Rows, predictions: Iterable[Row]) -> tuple[list[Violation], list[str]]:
    """Slots that were paid for more than once: those where it could be known, and those where it could not.

    A prediction that was there, and so would have been listed, before the attempt after it was written down could be
    known. One that the provider made only later (its create call was still on the way) could be known to nobody.
    """
    written: Mapping[str, datetime] = {str(attempt["id"]): attempt["created_at"] for attempt in rows.attempts}
    emails = {job["id"]: job["email"] for job in rows.jobs}
    owners = {str(photo["id"]): emails.get(photo["job_id"], "") for photo in rows.photos}
    billed: defaultdict[str, list[tuple[datetime, datetime]]] = defaultdict(list)  # (attempt written, made) by photo
    for prediction in predictions:
        if Decimal(prediction["cost_usd"]) > 0:
            made = datetime.fromisoformat(prediction["created_at"])
            photo, attempt = meant_for(prediction)
            billed[photo].append((written.get(attempt, made), made))
    violations, unknowable = [], []
    for photo, payments in billed.items():
        payments.sort()
        pairs = list(pairwise(payments))
        if any(earlier_made < later_written for (_, earlier_made), (later_written, _) in pairs):
            says = f"paid for {len(payments)} times, although the earlier prediction was there to be found"
            violations.append(Violation("I4", photo, says, owners.get(photo, "")))
        elif pairs:
            unknowable.append(photo)
    return violations, unknowable


def _bookings(rows: Rows, predictions: Iterable[Row]) -> Iterator[Violation]:
    booked = {attempt["prediction_id"]: attempt for attempt in rows.attempts if attempt["prediction_id"]}
    for prediction in predictions:
        attempt, cost = booked.get(prediction["id"]), Decimal(prediction["cost_usd"])
        if cost > 0 and (attempt is None or attempt["cost"] != cost):
            says = f"cost {cost}, booked as {attempt['cost'] if attempt else 'nothing'}"
            yield Violation("costs", prediction["id"], f"{prediction['status']}, {says}")
    for attempt in rows.attempts:
        if attempt["outcome"] == "OPEN" or attempt["close_due_at"] is not None:
            yield Violation("costs", str(attempt["id"]), f"{attempt['outcome']}, and not closed")


def _objects(rows: Rows, objects: Mapping[str, int]) -> Iterator[Violation]:
    promised: dict[str, int | None] = {
        photo["object_key"]: photo["size_bytes"] for photo in rows.photos if photo["object_key"] is not None
    }
    promised |= {photo["thumbnail_key"]: None for photo in rows.photos if photo["thumbnail_key"] is not None}
    promised |= {f"portraits/{job['portrait_id']}": None for job in rows.jobs if job["portrait_deleted_at"] is None}
    for key, size in promised.items():
        if key not in objects:
            yield Violation("I6", key, "a row promises it, and it is not there")
        elif size is not None and size != objects[key]:
            yield Violation("I6", key, f"{objects[key]} bytes, the row says {size}")
    for key in objects.keys() - promised.keys():
        yield Violation("I6", key, "it is there, and no row promises it")
    for event in rows.events:
        if event["name"] == "object.lost":  # written off: nothing promises it any more, but something did
            yield Violation("I6", str(event["job_id"]), "one of its objects was lost")
    for row in rows.loose:
        yield Violation("I6", row["object_key"], "its time is over, and it is still written down as loose")


def _stored(rows: Rows) -> Counter[UUID]:
    return Counter(photo["job_id"] for photo in rows.photos if photo["status"] == "STORED")


def meant_for(prediction: Row) -> tuple[str, str]:
    """The photo and the attempt that a prediction was made for, by the address it was to tell of its end."""
    query = parse_qs(urlsplit(prediction["webhook"] or "").query)
    return query.get("photo", [prediction["id"]])[0], query.get("attempt", [""])[0]
