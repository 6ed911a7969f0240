"""The chaos checker sees every kind of broken promise: each is planted into a small sound state, and must be named."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from PIL import Image

from tests.chaos import checker
from tests.chaos.checker import Books, Claim, Verdict, judge, judge_photo, read_rows
from tests.doubles.replicate_runs import stamp

PRICE = "0.0450"
SEED = 7


@dataclass
class Tale:
    """A database with one user and two jobs that ended well: one COMPLETED, one FAILED; and what others wrote down."""

    connection: psycopg.Connection
    url: str
    user: UUID = field(default_factory=uuid4)
    completed: UUID = field(default_factory=uuid4)
    failed: UUID = field(default_factory=uuid4)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    @property
    def email(self) -> str:
        return f"couple-{SEED}@chaos.test"

    def run(self, statement: str, *values: object) -> list[Any]:
        cursor = self.connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *values: object) -> Any:
        return self.run(statement, *values)[0][0]

    def tell(self) -> None:
        self.run("INSERT INTO users (id, email, credits) VALUES (%s, %s, 1)", self.user, self.email)
        self.entry("SIGNUP", 2, 2)
        self.entry("CHARGE", -1, 1, self.completed)
        self.job(self.completed, "completed", "COMPLETED", "STORED")
        self.entry("CHARGE", -1, 0, self.failed)
        self.entry("REFUND", 1, 1, self.failed)
        self.job(self.failed, "failed", "FAILED", "FAILED")

    def entry(self, kind: str, amount: int, balance: int, job: UUID | None = None) -> None:
        self.run(
            "INSERT INTO ledger_entries (user_id, kind, amount, balance_after, job_id) VALUES (%s, %s, %s, %s, %s)",
            *(self.user, kind, amount, balance, job),
        )

    def job(self, job: UUID, key: str, status: str, photo_status: str) -> None:
        portrait = uuid4()
        self.run(
            "INSERT INTO jobs (id, user_id, style, status, portrait_id, idempotency_key, request_fingerprint, "
            "deadline_at, completed_at) VALUES (%s, %s, 'CLASSIC', %s, %s, %s, 'f', now(), now())",
            *(job, self.user, status, portrait, key),
        )
        self.objects[f"portraits/{portrait}"] = 100
        self.event(job, None, "job.accepted")
        for slot in range(4):
            self.photo(job, slot, photo_status)
        self.event(job, None, f"job.{status.lower()}")
        self.claims.append(Claim(SEED, self.email, key, (job, job)))

    def photo(self, job: UUID, slot: int, status: str) -> None:
        photo, stored = uuid4(), status == "STORED"
        key = f"photos/{job}/{slot}" if stored else None
        self.run(
            "INSERT INTO photos (id, job_id, slot, status, object_key, width, height, size_bytes) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            *(photo, job, slot, status, key, *((900, 1200, 1000) if stored else (None, None, None))),
        )
        if key:
            self.objects[key] = 1000
        self.attempt(photo, "SUCCEEDED" if stored else "FAILED", PRICE if stored else "0")
        self.event(job, photo, "photo.started")
        self.event(job, photo, f"photo.{status.lower()}")

    def attempt(self, photo: UUID, outcome: str, cost: str, *, made_seconds_after: float = 0.1) -> None:
        """One more attempt at a photo, and its prediction, made so long after the attempt was written down."""
        attempt, prediction = uuid4(), uuid4().hex
        number = 1 + self.one("SELECT count(*) FROM attempts WHERE photo_id = %s", photo)
        created = self.one(
            "INSERT INTO attempts (id, photo_id, number, provider, model, seed, prediction_id, outcome, cost, "
            "ended_at, created_at) VALUES (%s, %s, %s, 'replicate', 'm', 1, %s, %s, %s, "
            "now(), now() + %s * interval '10 s') RETURNING created_at + %s * interval '1 s'",
            *(attempt, photo, number, prediction, outcome, cost, number, made_seconds_after),
        )
        self.predictions.append(
            {
                "id": prediction,
                "webhook": f"http://127.0.0.1:1/webhooks/replicate?photo={photo}&attempt={attempt}",
                "status": "succeeded" if outcome == "SUCCEEDED" else "failed",
                "cost_usd": cost,
                "created_at": stamp(created),
            }
        )

    def event(self, job: UUID, photo: UUID | None, name: str) -> None:
        self.run("INSERT INTO job_events (job_id, photo_id, name) VALUES (%s, %s, %s)", job, photo, name)

    def photo_of(self, job: UUID) -> UUID:
        found: UUID = self.one("SELECT id FROM photos WHERE job_id = %s AND slot = 0", job)
        return found

    def judge(self) -> Verdict:
        return judge(read_rows(self.url), Books(self.predictions, self.objects), self.claims)


@pytest.fixture
def tale(database_url: str) -> Iterator[Tale]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        # What wrong code could not write, somebody else might: the checker must not trust the constraints.
        for table, name in connection.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'f') AND conrelid <> 0"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        connection.execute("DROP INDEX uq_attempts_one_open, uq_ledger_entries_one_signup")
        tale = Tale(connection, database_url)
        tale.tell()
        yield tale


def test_a_sound_state_is_sound(tale: Tale) -> None:
    verdict = tale.judge()
    assert verdict.violations == []
    assert verdict.unknowable == []


def spend_unseen(tale: Tale) -> None:
    tale.run("UPDATE users SET credits = 5")


def unbalanced_entry(tale: Tale) -> None:
    tale.run("UPDATE ledger_entries SET balance_after = 7 WHERE kind = 'SIGNUP'")


def overdrawn(tale: Tale) -> None:
    tale.run("UPDATE ledger_entries SET amount = 0, balance_after = balance_after - 2 WHERE kind = 'SIGNUP'")
    tale.run("UPDATE ledger_entries SET balance_after = balance_after - 2 WHERE kind <> 'SIGNUP'")
    tale.run("UPDATE users SET credits = -1")


def charged_twice(tale: Tale) -> None:
    tale.entry("CHARGE", -1, 0, tale.completed)
    tale.run("UPDATE users SET credits = 0")


def refunded_twice(tale: Tale) -> None:
    tale.entry("REFUND", 1, 2, tale.failed)
    tale.run("UPDATE users SET credits = 2")


def not_refunded(tale: Tale) -> None:
    tale.run("DELETE FROM ledger_entries WHERE kind = 'REFUND'")
    tale.run("UPDATE users SET credits = 0")


def refunded_although_completed(tale: Tale) -> None:
    tale.entry("REFUND", 1, 2, tale.completed)
    tale.run("UPDATE users SET credits = 2")


def completed_with_three(tale: Tale) -> None:
    tale.run("UPDATE photos SET status = 'FAILED' WHERE id = %s", tale.photo_of(tale.completed))


def settled_twice(tale: Tale) -> None:
    tale.event(tale.completed, None, "job.completed")


def settled_otherwise(tale: Tale) -> None:
    tale.run("UPDATE job_events SET name = 'job.canceled' WHERE name = 'job.failed'")


def in_work_after_the_end(tale: Tale) -> None:
    tale.run("UPDATE photos SET status = 'GENERATING' WHERE id = %s", tale.photo_of(tale.failed))


def leased_after_the_end(tale: Tale) -> None:
    tale.run("UPDATE photos SET lease_token = gen_random_uuid() WHERE id = %s", tale.photo_of(tale.completed))


def paid_twice(tale: Tale) -> None:
    tale.attempt(tale.photo_of(tale.completed), "SUCCEEDED", PRICE)


def paid_and_not_booked(tale: Tale) -> None:
    tale.run("UPDATE attempts SET cost = 0 WHERE prediction_id = %s", tale.predictions[0]["id"])


def paid_and_not_known(tale: Tale) -> None:
    tale.run("UPDATE attempts SET prediction_id = NULL WHERE prediction_id = %s", tale.predictions[0]["id"])


def never_closed(tale: Tale) -> None:
    tale.run("UPDATE attempts SET close_due_at = now() WHERE photo_id = %s", tale.photo_of(tale.failed))


def object_gone(tale: Tale) -> None:
    del tale.objects[f"photos/{tale.completed}/0"]


def object_cut_short(tale: Tale) -> None:
    tale.objects[f"photos/{tale.completed}/0"] -= 1


def object_of_nobody(tale: Tale) -> None:
    tale.objects["photos/of/nobody"] = 1


def object_written_off(tale: Tale) -> None:
    del tale.objects[f"photos/{tale.completed}/0"]
    gone = "UPDATE photos SET object_key = NULL, deleted_at = now() WHERE slot = 0 AND job_id = %s"
    tale.run(gone, tale.completed)
    tale.run("INSERT INTO job_events (job_id, name) VALUES (%s, 'object.lost')", tale.completed)


def loose_for_ever(tale: Tale) -> None:
    tale.run("INSERT INTO loose_objects (object_key, delete_after) VALUES ('photos/loose', now())")


def stored_without_a_start(tale: Tale) -> None:
    tale.run("DELETE FROM job_events WHERE name = 'photo.started' AND photo_id = %s", tale.photo_of(tale.completed))


def stored_after_the_end(tale: Tale) -> None:
    tale.event(tale.completed, tale.photo_of(tale.completed), "photo.started")


def status_without_a_story(tale: Tale) -> None:
    tale.run("UPDATE photos SET status = 'FAILED' WHERE id = %s", tale.photo_of(tale.completed))


def never_accepted(tale: Tale) -> None:
    tale.run("DELETE FROM job_events WHERE name = 'job.accepted' AND job_id = %s", tale.failed)


def two_jobs_of_one_key(tale: Tale) -> None:
    tale.claims[0] = Claim(SEED, tale.email, "completed", (tale.completed, tale.failed))


def a_job_nobody_was_told_of(tale: Tale) -> None:
    tale.claims.pop()


def a_key_that_was_taken_twice(tale: Tale) -> None:
    tale.run("UPDATE jobs SET idempotency_key = 'completed'")


def a_complaint(tale: Tale) -> None:
    tale.claims[0] = Claim(SEED, tale.email, "completed", (tale.completed,), ("was refused",))


def lost(tale: Tale) -> None:
    tale.claims.append(Claim(SEED, tale.email, "another", (uuid4(),)))


def stuck(tale: Tale) -> None:
    tale.run("UPDATE jobs SET status = 'PROCESSING', completed_at = NULL WHERE id = %s", tale.failed)


@pytest.mark.parametrize(
    ("promise", "plant"),
    [
        ("I1", spend_unseen),
        ("I1", unbalanced_entry),
        ("I1", overdrawn),
        ("I2", charged_twice),
        ("I2", refunded_twice),
        ("I2", not_refunded),
        ("I2", refunded_although_completed),
        ("I2", completed_with_three),
        ("I3", settled_twice),
        ("I3", settled_otherwise),
        ("I3", in_work_after_the_end),
        ("I3", leased_after_the_end),
        ("I4", paid_twice),
        ("costs", paid_and_not_booked),
        ("costs", paid_and_not_known),
        ("costs", never_closed),
        ("I6", object_gone),
        ("I6", object_cut_short),
        ("I6", object_of_nobody),
        ("I6", object_written_off),
        ("I6", loose_for_ever),
        ("I7", stored_without_a_start),
        ("I7", stored_after_the_end),
        ("I7", status_without_a_story),
        ("I7", never_accepted),
        ("I8", two_jobs_of_one_key),
        ("untold", a_job_nobody_was_told_of),
        ("I8", a_key_that_was_taken_twice),
        ("I8", a_complaint),
        ("lost", lost),
        ("stuck", stuck),
    ],
)
def test_a_broken_promise_is_named(tale: Tale, promise: str, plant: Callable[[Tale], None]) -> None:
    plant(tale)
    assert tale.judge().count(promise) == 1


def test_a_second_payment_that_nobody_could_prevent_is_shown_apart(tale: Tale) -> None:
    photo = tale.photo_of(tale.completed)
    tale.predictions[0]["created_at"] = stamp(tale.one("SELECT max(created_at) + interval '1 h' FROM attempts"))
    tale.attempt(photo, "SUCCEEDED", PRICE)
    verdict = tale.judge()
    assert verdict.count("I4") == 0
    assert verdict.unknowable == [str(photo)]


def test_a_photo_that_is_no_picture_is_named() -> None:
    whole = BytesIO()
    Image.new("RGB", (64, 64), "white").save(whole, "JPEG")
    assert judge_photo("photos/1", whole.getvalue()) == []
    assert judge_photo("photos/1", whole.getvalue()[:300])[0].promise == "I2"
    assert judge_photo("photos/1", b"a page of some proxy's")[0].promise == "I2"


def test_the_checker_shares_no_code_with_the_product() -> None:
    tree = ast.parse(Path(checker.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    packages = {str(module).partition(".")[0] for module in imported}
    assert packages.isdisjoint({"api", "worker", "shared", "cli", "migrations", "tests"})
