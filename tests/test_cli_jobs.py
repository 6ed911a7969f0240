"""`cuggu jobs`: a job's story as it happened, and a failed job once more without a credit lost or won."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from cli.main import app
from shared import credits, deliveries, jobs, loose_objects
from shared.audit import audit
from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.errors import StorageUnavailable
from shared.free_retry import NotRetried, Retried, retry_free_of_charge
from shared.queue import START_QUEUE, JobQueue, make_celery
from shared.settings import Settings
from shared.spending import Spending
from shared.staff_actions import Actor
from tests.rows import new_job, new_user
from tests.scripted_predictor import ScriptedPredictor, failed
from worker.generation import Generation
from worker.predictor import Never
from worker.sweeper import delete_loose_objects

PORTRAIT = b"\xff\xd8\xff a portrait"


class World:
    """Jobs made by the system's own steps, and the command that tells of them."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.sessions = sessionmaker(engine, expire_on_commit=False)
        self.storage = DiskStorage(settings.data_dir / "objects")
        self.predictor = ScriptedPredictor()
        notes = ChangeNotes(settings.redis_url)
        self.generation = Generation(self.sessions, self.storage, self.predictor, notes, settings)

    def accept(self, *, credit: int = 2) -> tuple[UUID, UUID, tuple[UUID, ...]]:
        with self.sessions.begin() as session:
            user_id = new_user(session, credit=credit)
            new = replace(new_job(user_id), style="VINTAGE", role="BRIDE", portrait_id=uuid4())
            loose_objects.expect(session, jobs.portrait_key(new.portrait_id))
        self.storage.put(jobs.portrait_key(new.portrait_id), PORTRAIT, "image/jpeg")
        with self.sessions.begin() as session:
            accepted = jobs.accept(session, new)
        assert accepted is not None
        return user_id, new.id, accepted.photo_ids

    def failed(self, *, credit: int = 2) -> tuple[UUID, UUID]:
        user_id, job_id, photo_ids = self.accept(credit=credit)
        for photo_id in photo_ids:
            self.predictor.starts.append(Never("bad_input", "the provider's words"))
            self.generation.start(photo_id)
        assert self.rows("SELECT status FROM jobs WHERE id = :id", id=job_id) == [("FAILED",)]
        return user_id, job_id

    def rows(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return [tuple(row) for row in done] if done.returns_rows else []

    def step(self, photo_id: UUID) -> None:
        """Start or collect the photo now, whichever it waits for."""
        self.rows("UPDATE photos SET next_check_at = now() WHERE id = :id", id=photo_id)
        [(status,)] = self.rows("SELECT status FROM photos WHERE id = :id", id=photo_id)
        {"PENDING": self.generation.start, "GENERATING": self.generation.collect}[status](photo_id)

    def retry(self, job_id: UUID) -> Retried:
        queue = JobQueue(make_celery(self.settings), self.settings.redis_url)
        why = "the provider was down"
        return retry_free_of_charge(
            self.engine,
            self.storage,
            queue,
            job_id,
            why,
            actor=Actor.command("a test"),
            spending=Spending(self.settings),
            deadline_seconds=60,
            delivery_wanted=True,
        )

    def is_sound(self) -> None:
        audited = audit(self.engine, self.storage)
        assert [offence for finding in audited.findings for offence in finding.offences] == []
        assert audited.proved

    def counts(self) -> tuple[int, ...]:
        tables = ("jobs", "photos", "ledger_entries", "job_events")
        return tuple(self.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables)


@pytest.fixture
def world(engine: Engine, settings: Settings) -> World:
    return World(engine, settings)


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    settings = world.settings
    environment = {
        "DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url, "DATA_DIR": str(settings.data_dir),
    }  # fmt: skip
    return lambda *words, **env: CliRunner().invoke(app, ["jobs", *words], env=environment | env)


# --- show


@pytest.fixture
def told(world: World) -> tuple[UUID, UUID, tuple[UUID, ...]]:
    """A job whose first photo took two attempts, whose last was refused, and which ended PARTIAL."""
    user_id, job_id, photo_ids = world.accept()
    world.predictor.fetches.append(failed("provider_error", retryable=True))
    for photo_id, steps in zip(photo_ids[:3], (4, 2, 2), strict=True):
        for _ in range(steps):
            world.step(photo_id)
    world.predictor.starts.append(Never("bad_input", "[red]no[/red]"))
    world.step(photo_ids[3])
    return user_id, job_id, photo_ids


def test_a_story_tells_everything_in_the_order_of_time(
    world: World, run: Callable[..., Any], told: tuple[UUID, UUID, tuple[UUID, ...]]
) -> None:
    user_id, job_id, photo_ids = told
    done = run("show", str(job_id), "--json")
    assert done.exit_code == 0, done.output
    story = json.loads(done.stdout)
    assert (story["job"]["id"], story["job"]["user_id"]) == (str(job_id), str(user_id))
    assert (story["job"]["style"], story["job"]["role"], story["job"]["status"]) == ("VINTAGE", "BRIDE", "PARTIAL")
    assert [state["status"] for state in story["states"]] == ["QUEUED", "PROCESSING", "PARTIAL"]
    assert [(photo["slot"], photo["id"]) for photo in story["photos"]] == list(enumerate(map(str, photo_ids)))

    tried = [(a["slot"], a["number"], a["outcome"], a["error_code"], a["cost"]) for a in story["attempts"]]
    assert tried == [
        (0, 1, "FAILED", "provider_error", "0.0000"),
        (0, 2, "SUCCEEDED", None, "0.0400"),
        (1, 1, "SUCCEEDED", None, "0.0400"),
        (2, 1, "SUCCEEDED", None, "0.0400"),
        (3, 1, "FAILED", "bad_input", "0.0000"),
    ]
    assert story["costs"] == {"USD": "0.1200"}
    seeds = {order.attempt_id: order.seed for order in world.predictor.orders}
    assert all(seeds[UUID(a["id"])] == a["seed"] for a in story["attempts"])
    assert [a["prediction_id"] for a in story["attempts"]] == [*(f"prediction-{n}" for n in range(4)), None]
    assert [(entry["kind"], entry["amount"]) for entry in story["ledger"]] == [("CHARGE", -1), ("REFUND", 1)]

    times = [line["at"] for line in story["story"]]
    assert times == sorted(times)
    assert all(at.endswith("Z") for at in times)
    photo_0 = [line["what"] for line in story["story"] if line["slot"] == 0]
    assert photo_0 == [
        "photo.started", "attempt 1 began", "attempt 1 submitted", "attempt 1 FAILED", "photo.retried",
        "photo.started", "attempt 2 began", "attempt 2 submitted", "attempt 2 SUCCEEDED", "photo.stored",
    ]  # fmt: skip
    of_job = [line["what"] for line in story["story"] if line["slot"] is None]
    assert of_job == ["job.accepted", "credit CHARGE", "job.partial", "credit REFUND"]


def test_a_story_can_be_read_and_shows_words_as_they_are(
    run: Callable[..., Any], told: tuple[UUID, UUID, tuple[UUID, ...]]
) -> None:
    _, job_id, _ = told
    done = run("show", str(job_id))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"job       {job_id}: PARTIAL (bad_input: [red]no[/red])"
    assert "cost      0.1200 USD, for 5 attempts" in lines
    assert any(line.split()[:2] == ["3", "FAILED"] and "bad_input: [red]no[/red]" in line for line in lines)
    (last,) = [line for line in lines if "credit REFUND" in line]
    assert "amount=+1 balance_after=2" in last


def test_a_story_tells_whether_the_site_was_told(world: World, run: Callable[..., Any]) -> None:
    _, failed_id = world.failed()
    assert "delivery  not wanted" in run("show", str(failed_id)).stdout
    new_id = world.retry(failed_id).job_id
    assert "delivery  when it has ended" in run("show", str(new_id)).stdout
    [(user_id,)] = world.rows("SELECT user_id FROM jobs WHERE id = :id", id=new_id)
    with world.sessions.begin() as session:
        jobs.cancel(session, user_id, new_id)
    assert "delivery  WAITING, tries: 0, due at" in run("show", str(new_id)).stdout
    [(delivery_id,)] = world.rows("SELECT id FROM deliveries")
    with world.sessions.begin() as session:
        made = deliveries.claim(session, delivery_id, 30)
        assert made is not None
    with world.sessions.begin() as session:
        deliveries.failed(session, made, 500, "HTTP 500", 60)
    assert "delivery  WAITING, tries: 1, HTTP 500, due at" in run("show", str(new_id)).stdout
    with world.sessions.begin() as session:
        deliveries.delivered(session, made, 204)
    assert "delivery  DELIVERED, tries: 1, HTTP 204\n" in run("show", str(new_id)).stdout
    story = json.loads(run("show", str(new_id), "--json").stdout)
    assert (story["delivery"]["id"], story["delivery"]["status"]) == (str(delivery_id), "DELIVERED")
    last = story["story"][-1]
    assert (last["what"], last["details"]) == ("delivery DELIVERED", {"tries": 1, "status": 204})


def test_a_job_is_found_by_the_first_digits_of_its_id(
    world: World, run: Callable[..., Any], told: tuple[UUID, UUID, tuple[UUID, ...]]
) -> None:
    _, job_id, _ = told
    for words in (str(job_id)[:8], str(job_id)[:13].upper(), job_id.hex, job_id.hex[:9]):
        done = run("show", words, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["job"]["id"] == str(job_id)
    # A neighbour with the same first digits, and one right beside the range.
    twin = UUID(job_id.hex[:12] + f"{(int(job_id.hex[12:], 16) + 1) % 16**20:020x}")
    with world.sessions.begin() as session:
        new = replace(new_job(new_user(session)), id=twin)
        assert jobs.accept(session, new)
    done = run("show", job_id.hex[:12])
    assert done.exit_code == 1
    assert str(job_id) in done.stderr
    assert str(twin) in done.stderr
    assert run("show", str(twin)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("1234567", "not a job's id"),
        ("1234567%", "not a job's id"),
        ("0" * 33, "not a job's id"),
        ("12345678", "There is no job 12345678"),
    ],
)
def test_what_names_no_job_is_said(run: Callable[..., Any], words: str, says: str) -> None:
    for command in (["show"], ["retry", "--reason", "r"]):
        done = run(*command, words)
        assert (done.exit_code, done.stdout) == (1, "")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


# --- retry


def test_a_failed_job_is_retried_free_of_charge_as_a_job_like_any_other(world: World, run: Callable[..., Any]) -> None:
    user_id, failed_id = world.failed()
    balance = world.rows("SELECT credits FROM users WHERE id = :id", id=user_id)
    done = run("retry", str(failed_id)[:8], "--reason", "the provider was down")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    [(new_id, status, style, role, fingerprint, portrait_id)] = world.rows(
        "SELECT id, status, style, role, request_fingerprint, portrait_id FROM jobs WHERE id <> :id", id=failed_id
    )
    assert done.stdout == f"Job {failed_id} is retried as job {new_id}, free of charge.\n"
    assert (status, style, role, fingerprint) == ("QUEUED", "VINTAGE", "BRIDE", "f" * 64)
    [(old_portrait_id,)] = world.rows("SELECT portrait_id FROM jobs WHERE id = :id", id=failed_id)
    assert portrait_id != old_portrait_id
    for portrait in (portrait_id, old_portrait_id):
        assert world.storage.get(jobs.portrait_key(portrait)).body == PORTRAIT
    assert world.rows("SELECT credits FROM users WHERE id = :id", id=user_id) == balance
    with Session(world.engine) as session:
        entries = [(entry.kind, entry.amount, entry.reference) for entry in credits.ledger(session, user_id, 2)]
    assert entries == [("CHARGE", -1, None), ("GRANT", 1, f"retry:{failed_id}")]
    with redis.Redis.from_url(world.settings.redis_url) as client:
        assert client.llen(START_QUEUE) == 4, "the queue was told of each photo"
    world.is_sound()

    photo_ids = [row[0] for row in world.rows("SELECT id FROM photos WHERE job_id = :id", id=new_id)]
    for photo_id in photo_ids:
        world.step(photo_id)
        world.step(photo_id)
    assert world.rows("SELECT status FROM jobs WHERE id = :id", id=new_id) == [("COMPLETED",)]
    world.is_sound()

    for job_id, others in ((failed_id, new_id), (new_id, failed_id)):
        shown = run("show", str(job_id)).stdout
        assert str(others) in shown, "each story names the other job"
        assert "the provider was down" in shown
        assert "GRANT" in shown
    told = world.rows("SELECT name, actor_kind, user_id, job_id, details ->> 'new_job_id' FROM staff_actions")
    assert told == [("job.retried", "COMMAND", user_id, failed_id, str(new_id))]


def test_a_user_without_any_credit_is_retried_too_and_a_failed_retry_is_refunded_and_retried_in_turn(
    world: World,
) -> None:
    user_id, failed_id = world.failed(credit=1)
    with world.sessions.begin() as session:  # the refund is spent on another job
        other = new_job(user_id)
        loose_objects.expect(session, jobs.portrait_key(other.portrait_id))
    world.storage.put(jobs.portrait_key(other.portrait_id), PORTRAIT, "image/jpeg")
    with world.sessions.begin() as session:
        assert jobs.accept(session, other)
    retried = world.retry(failed_id)
    assert retried.told
    assert world.rows("SELECT credits FROM users WHERE id = :id", id=user_id) == [(0,)]
    for (photo_id,) in world.rows("SELECT id FROM photos WHERE job_id = :id", id=retried.job_id):
        world.predictor.starts.append(Never("bad_input", "no"))
        world.step(photo_id)
    assert world.rows("SELECT credits FROM users WHERE id = :id", id=user_id) == [(1,)]
    assert world.retry(retried.job_id).job_id not in (failed_id, retried.job_id)
    world.is_sound()


def test_a_job_is_retried_once_however_many_ask_at_once(world: World) -> None:
    _, failed_id = world.failed()

    def ask(_: int) -> Retried | str:
        try:
            return world.retry(failed_id)
        except NotRetried as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    (retried,) = [answer for answer in answers if isinstance(answer, Retried)]
    assert all("retried before" in answer for answer in answers if isinstance(answer, str))
    assert world.rows("SELECT count(*) FROM jobs") == [(2,)]
    assert world.rows("SELECT id FROM jobs WHERE id <> :id", id=failed_id) == [(retried.job_id,)]
    # The copies of those who came too late are let go.
    delete_loose_objects(world.sessions, world.storage)
    assert len(list(world.storage.list("portraits/"))) == 2
    world.is_sound()


def test_only_a_failed_job_is_retried(world: World, run: Callable[..., Any]) -> None:
    user_id, queued_id, photo_ids = world.accept()
    before = world.counts()
    done = run("retry", str(queued_id), "--reason", "r")
    assert (done.exit_code, done.stderr) == (1, f"Job {queued_id} is QUEUED; only a FAILED job is retried.\n")
    assert world.counts() == before
    for photo_id in photo_ids[:1]:
        world.step(photo_id)
        world.step(photo_id)
    with world.sessions.begin() as session:
        jobs.cancel(session, user_id, queued_id)
    with pytest.raises(NotRetried, match="is CANCELED"):
        world.retry(queued_id)
    with pytest.raises(NotRetried, match="no such job"):
        world.retry(uuid4())
    world.is_sound()


def test_without_its_portrait_a_job_is_not_retried(world: World, run: Callable[..., Any]) -> None:
    _, failed_id = world.failed()
    [(portrait_id,)] = world.rows("SELECT portrait_id FROM jobs")
    before = world.counts()
    world.storage.delete([jobs.portrait_key(portrait_id)])
    done = run("retry", str(failed_id), "--reason", "r")
    assert (done.exit_code, done.stderr) == (1, f"The portrait of job {failed_id} is not in the storage.\n")
    world.rows("UPDATE jobs SET portrait_deleted_at = now()")
    done = run("retry", str(failed_id), "--reason", "r")
    assert done.exit_code == 1
    assert f"The portrait of job {failed_id} was deleted at" in done.stderr
    assert world.counts() == before
    world.is_sound()


def test_a_portrait_that_is_deleted_while_it_is_copied_stays_deleted(world: World) -> None:
    """The user's wish comes between the copy and the new job: nothing of the portrait may be left."""
    _, failed_id = world.failed()
    put = world.storage.put

    def put_late(key: str, body: bytes, content_type: str) -> None:
        with world.sessions.begin() as session:
            job = jobs.lock(session, failed_id)
            assert job is not None
            loose_objects.let_go(session, jobs.portrait_key(job.portrait_id))
            session.execute(text("UPDATE jobs SET portrait_deleted_at = now()"))
        put(key, body, content_type)

    world.storage.put = put_late  # type: ignore[method-assign]
    with pytest.raises(NotRetried, match="was deleted"):
        world.retry(failed_id)
    delete_loose_objects(world.sessions, world.storage)
    assert list(world.storage.list("")) == []
    assert world.rows("SELECT count(*) FROM jobs") == [(1,)]
    world.is_sound()


def test_when_the_copy_cannot_be_put_nothing_happened(world: World) -> None:
    _, failed_id = world.failed()
    before = world.counts()

    def refuse(*_: object) -> None:
        raise StorageUnavailable(retry_after_seconds=5)

    put, world.storage.put = world.storage.put, refuse  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable):
        world.retry(failed_id)
    assert world.counts() == before
    world.storage.put = put  # type: ignore[method-assign]
    assert world.retry(failed_id).told
    world.is_sound()


def test_a_retry_that_dies_before_its_commit_leaves_nothing_but_an_object_that_will_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, failed_id = world.failed()
    before = world.counts()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shared.free_retry.jobs.accept", die)
        with pytest.raises(KeyboardInterrupt):
            world.retry(failed_id)
    assert world.counts() == before, "the grant went with the rest"
    world.is_sound()
    world.rows("UPDATE loose_objects SET delete_after = now()")
    delete_loose_objects(world.sessions, world.storage)
    assert len(list(world.storage.list(""))) == 1
    world.is_sound()


def test_with_redis_away_the_job_is_left_to_the_sweep_and_the_command_says_so(
    world: World, run: Callable[..., Any]
) -> None:
    _, failed_id = world.failed()
    done = run("retry", str(failed_id), "--reason", "r", REDIS_URL="redis://127.0.0.1:1/0")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    assert done.stderr == "The queue does not answer; the sweep will find the new job.\n"
    world.is_sound()


def test_a_reason_is_needed(world: World, run: Callable[..., Any]) -> None:
    _, failed_id = world.failed()
    before = world.counts()
    assert run("retry", str(failed_id)).exit_code == 2
    assert run("retry", str(failed_id), "--reason", " ").exit_code == 2
    assert world.counts() == before
