"""The audit: a sound world passes, and whatever is planted against a promise is named by its id."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from PIL import Image
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from cli.main import app
from shared import audit_objects, audit_photos, jobs, loose_objects
from shared.audit import Audit, audit
from shared.audit_rows import CHECKS
from shared.change_notes import ChangeNotes
from shared.database import make_engine
from shared.disk_storage import DiskStorage
from shared.errors import StorageUnavailable
from shared.settings import Settings
from tests.rows import new_job, new_user
from tests.scripted_predictor import ScriptedPredictor, failed
from tests.servers import TEMPLATE, Servers
from worker.generation import Generation
from worker.predictor import Never, NotYet


class World:
    """Jobs of every end, made by the system's own steps; ids by name."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.storage = DiskStorage(settings.data_dir / "objects")
        self.predictor = ScriptedPredictor()
        self.generation = Generation(
            sessions=sessionmaker(engine, expire_on_commit=False),
            storage=self.storage,
            predictor=self.predictor,
            notes=ChangeNotes(settings.redis_url),
            settings=settings,
        )
        self.jobs: dict[str, UUID] = {}
        self.photos: dict[str, tuple[UUID, ...]] = {}
        self.users: dict[str, UUID] = {}

    def accept(self, name: str, *, deadline_seconds: int = 480) -> UUID:
        with Session(self.engine) as session, session.begin():
            self.users[name] = new_user(session)
            new = new_job(self.users[name], deadline_seconds=deadline_seconds, delivery_wanted=name != "failed")
            loose_objects.expect(session, jobs.portrait_key(new.portrait_id))
        self.storage.put(jobs.portrait_key(new.portrait_id), b"portrait", "image/jpeg")
        with Session(self.engine) as session, session.begin():
            accepted = jobs.accept(session, new)
        assert accepted is not None
        self.jobs[name], self.photos[name] = new.id, accepted.photo_ids
        return new.id

    def run(self, name: str, slots: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        """Start and collect these photos until nothing is due."""
        for slot in slots:
            photo_id = self.photos[name][slot]
            for _ in range(4):
                for step in (self.generation.start, self.generation.collect):
                    self.sql(
                        "UPDATE photos SET next_check_at = now() - interval '1 second' WHERE id = :id", id=photo_id
                    )
                    step(photo_id)

    def sql(self, statement: str, **values: object) -> Any:
        with self.engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return done.all() if done.returns_rows else None

    def one(self, statement: str, **values: object) -> Any:
        ((value,),) = self.sql(statement, **values)
        return value

    def key(self, name: str, slot: int = 0) -> str:
        return str(self.one("SELECT object_key FROM photos WHERE id = :id", id=self.photos[name][slot]))

    def audit(self, *, deep: bool = False) -> Audit:
        return audit(self.engine, self.storage, deep=deep)

    def offences(self, *, deep: bool = False) -> set[tuple[str, str, str]]:
        audited = self.audit(deep=deep)
        assert not [finding for finding in audited.findings if finding.unproved]
        return {
            (finding.promise, offence.table, offence.id) for finding in audited.findings for offence in finding.offences
        }


@pytest.fixture
def world(engine: Engine, settings: Settings) -> World:
    """Nothing at all."""
    return World(engine, settings)


def fill(world: World) -> None:
    """A job in every state, with retried, withdrawn, given up, fenced off and never started photos."""
    world.predictor.starts.append(NotYet(1, "the budget is used up"))
    world.predictor.fetches.append(failed("provider_error", retryable=True))
    world.accept("completed")
    world.run("completed")
    world.accept("partial")
    world.run("partial", (0, 1, 2))
    world.predictor.starts.append(Never("bad_input", "no"))
    world.run("partial", (3,))
    world.accept("failed")
    world.predictor.starts.extend([Never("bad_input", "no")] * 4)
    world.run("failed")
    world.accept("overdue")
    world.run("overdue", (0,))
    world.generation.start(world.photos["overdue"][1])
    world.accept("never seen")
    world.sql(
        "UPDATE jobs SET deadline_at = now() WHERE id = ANY(:ids)",
        ids=[world.jobs["overdue"], world.jobs["never seen"]],
    )
    world.accept("canceled")
    world.generation.start(world.photos["canceled"][0])
    world.accept("canceled late")
    world.run("canceled late", (0, 1))
    with Session(world.engine) as session, session.begin():
        for name in ("overdue", "never seen"):
            assert jobs.settle_overdue(session, world.jobs[name])
        for name in ("canceled", "canceled late"):
            jobs.cancel(session, world.users[name], world.jobs[name])
        jobs.select_photo(session, world.users["completed"], world.jobs["completed"], world.photos["completed"][1])
    world.accept("processing")
    world.run("processing", (0,))
    world.generation.start(world.photos["processing"][1])
    world.accept("queued")


@pytest.fixture(scope="module")
def original(
    servers: Servers, postgres_admin: psycopg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The full world, made once by all the steps that it takes; nobody is connected to its database any more."""
    name = f"test_{uuid4().hex}"
    postgres_admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    url = servers.database_url(name)
    data_dir = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patched:
        for setting in Settings.model_fields:
            patched.delenv(setting.upper(), raising=False)
        settings = Settings(_env_file=None, database_url=url, redis_url=servers.redis_url, data_dir=data_dir)
    engine = make_engine(url, transaction_pooling=False)
    world = World(engine, settings)
    fill(world)
    engine.dispose()
    yield world
    postgres_admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def full_world(
    original: World, servers: Servers, postgres_admin: psycopg.Connection, clean_environment: None, tmp_path: Path
) -> Iterator[World]:
    """A copy of the full world for this test, its objects included."""
    name = f"test_{uuid4().hex}"
    template = original.settings.database_url.rsplit("/", 1)[1].split("?")[0]
    postgres_admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    copied = {"database_url": servers.database_url(name), "data_dir": tmp_path / "copy"}
    shutil.copytree(original.settings.data_dir, copied["data_dir"])
    engine = make_engine(str(copied["database_url"]), transaction_pooling=False)
    world = World(engine, original.settings.model_copy(update=copied))
    world.jobs, world.photos, world.users = dict(original.jobs), dict(original.photos), dict(original.users)
    yield world
    engine.dispose()
    postgres_admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_world_with_jobs_of_every_state_passes(full_world: World) -> None:
    statuses = dict(full_world.sql("SELECT id, status FROM jobs"))
    expected = {
        **{"completed": "COMPLETED", "partial": "PARTIAL", "failed": "FAILED", "overdue": "PARTIAL"},
        **{"never seen": "FAILED", "canceled": "CANCELED", "canceled late": "CANCELED"},
        **{"processing": "PROCESSING", "queued": "QUEUED"},
    }
    assert {name: statuses[job_id] for name, job_id in full_world.jobs.items()} == expected
    audited = full_world.audit(deep=True)
    assert [offence for finding in audited.findings for offence in finding.offences] == []
    assert audited.proved
    assert {finding.promise for finding in audited.findings} == {"I1", "I2", "I3", "I5", "I6", "I7"}
    looked_at = {finding.says: finding.looked_at for finding in audited.findings}
    stored = 4 + 3 + 1 + 2 + 1
    assert looked_at[audit_objects.WITHOUT_ROW] == looked_at[audit_objects.WITHOUT_OBJECT] == 9 + 2 * stored
    assert looked_at[audit_objects.WHOLE] == 4 + 2, "a job that is still active has kept nothing yet"
    assert looked_at[audit_photos.DECODABLE] == stored


def test_an_empty_world_passes(world: World) -> None:
    assert world.audit(deep=True).proved


def test_it_is_told_how_many_checks_are_done(full_world: World) -> None:
    heard: list[tuple[int, int]] = []
    audit(full_world.engine, full_world.storage, on_check=lambda done, of: heard.append((done, of)))
    assert heard == [(done, len(CHECKS)) for done in range(len(CHECKS) + 1)]


# --- What rows can break. Each offence names the job or photo of the full world that it is planted on, and is
# --- expected to be found under its promise; what one offence breaks besides is named too.

REFUND = "INSERT INTO ledger_entries (user_id, kind, amount, balance_after, job_id) VALUES (:user, 'REFUND', 1"
JOB, PHOTO = "jobs {job}", "photos {photo}"

PLANTED: dict[str, tuple[str, str, set[tuple[str, str]]]] = {
    "I1: a balance without an entry": (
        "completed",
        "UPDATE users SET credits = credits + 5 WHERE id = :user",
        {("I1", "users {user}")},
    ),
    "I1: a balance below zero": (
        "failed",
        "UPDATE users SET credits = -1 WHERE id = :user",
        {("I1", "users {user}")},
    ),
    "I1: an entry that does not follow": (
        "completed",
        "UPDATE ledger_entries SET balance_after = 9 WHERE job_id = :job",
        {("I1", "ledger_entries {charge}")},
    ),
    "I2: a refund of a job that was completed": (
        "completed",
        f"WITH u AS (UPDATE users SET credits = 2 WHERE id = :user) {REFUND}, 2, :job)",
        {("I2", JOB)},
    ),
    "I2: a refund of a job that is active": (
        "queued",
        f"WITH u AS (UPDATE users SET credits = 2 WHERE id = :user) {REFUND}, 2, :job)",
        {("I2", JOB)},
    ),
    "I2: a second refund": (
        "failed",
        f"WITH u AS (UPDATE users SET credits = 3 WHERE id = :user) {REFUND}, 3, :job)",
        {("I2", JOB)},
    ),
    "I2: no refund of a job that failed": (
        "failed",
        "WITH u AS (UPDATE users SET credits = 1 WHERE id = :user) "
        "DELETE FROM ledger_entries WHERE job_id = :job AND kind = 'REFUND'",
        {("I2", JOB)},
    ),
    "I2: no refund of a job that was canceled with nothing": (
        "canceled",
        "WITH u AS (UPDATE users SET credits = 1 WHERE id = :user) "
        "DELETE FROM ledger_entries WHERE job_id = :job AND kind = 'REFUND'",
        {("I2", JOB)},
    ),
    "I2: a job that was never charged": (
        "queued",
        "WITH u AS (UPDATE users SET credits = 2 WHERE id = :user) DELETE FROM ledger_entries WHERE job_id = :job",
        {("I2", JOB)},
    ),
    "I2: a charge for nothing": (
        "queued",
        "WITH u AS (UPDATE users SET credits = 0 WHERE id = :user) "
        "INSERT INTO ledger_entries (id, user_id, kind, amount, balance_after) VALUES (999, :user, 'CHARGE', -1, 0)",
        {("I2", "ledger_entries 999")},
    ),
    "I3: no settlement of an ended job": (
        "completed",
        "DELETE FROM job_events WHERE job_id = :job AND name = 'job.completed'",
        {("I3", JOB)},
    ),
    "I3: two settlements": (
        "failed",
        "INSERT INTO job_events (job_id, name) VALUES (:job, 'job.failed')",
        {("I3", JOB)},
    ),
    "I3: settled to something else": (
        "completed",
        "UPDATE job_events SET name = 'job.canceled' WHERE job_id = :job AND name = 'job.completed'",
        {("I3", JOB)},
    ),
    "I3: a settlement that was left again": (
        "canceled",
        "UPDATE jobs SET status = 'PROCESSING', completed_at = NULL WHERE id = :job",
        # Its credit went back, and its photos were ended by an end that it does not have.
        {("I3", JOB), ("I2", JOB), ("I7", "photos {photos[0]}"), ("I7", "photos {photos[1]}"),
         ("I7", "photos {photos[2]}"), ("I7", "photos {photos[3]}")},
    ),
    "I3: an end without its time": ("completed", "UPDATE jobs SET completed_at = NULL WHERE id = :job", {("I3", JOB)}),
    "I3: a photo of an ended job in work": (
        "never seen",
        "UPDATE photos SET status = 'PENDING' WHERE id = :photo",
        {("I3", PHOTO)},
    ),
    "I3: a lease on a photo that ended": (
        "processing",
        "UPDATE photos SET lease_token = gen_random_uuid() WHERE id = :photo",
        {("I3", PHOTO)},
    ),
    "I5: a job that nobody settled": (
        "queued",
        "UPDATE jobs SET deadline_at = now() - interval '130 seconds' WHERE id = :job",
        {("I5", JOB)},
    ),
    "I3: an end that the site is not told of": (
        "completed",
        "DELETE FROM deliveries WHERE job_id = :job",
        {("I3", JOB)},
    ),
    "I3: the site told of a job that has not ended": (
        "processing",
        "INSERT INTO deliveries (id, job_id) VALUES (gen_random_uuid(), :job)",
        {("I3", JOB)},
    ),
    "I5: a job that nobody finished": (
        "processing",
        "UPDATE jobs SET deadline_at = now() - interval '1 day' WHERE id = :job",
        {("I5", JOB)},
    ),
    "I7: a job without its acceptance": (
        "completed",
        "DELETE FROM job_events WHERE job_id = :job AND name = 'job.accepted'",
        {("I7", JOB)},
    ),
    "I7: a photo started after the job was settled": (
        "never seen",
        "INSERT INTO job_events (job_id, photo_id, name) VALUES (:job, :photo, 'photo.started')",
        {("I7", JOB)},
    ),
    "I7: QUEUED again": (
        "processing",
        "UPDATE jobs SET status = 'QUEUED' WHERE id = :job",
        {("I7", JOB)},
    ),
    "I7: a photo stored without being started": (
        "completed",
        "DELETE FROM job_events WHERE photo_id = :photo AND name IN ('photo.started', 'photo.retried')",
        {("I7", PHOTO)},
    ),
    "I7: a photo stored before it was started": (
        "partial",
        "UPDATE job_events SET name = CASE name WHEN 'photo.started' THEN 'photo.stored' ELSE 'photo.started' END "
        "WHERE photo_id = :photo",
        {("I7", PHOTO)},
    ),
    "I7: a photo stored twice": (
        "processing",
        "INSERT INTO job_events (job_id, photo_id, name) VALUES (:job, :photo, 'photo.stored')",
        {("I7", PHOTO)},
    ),
    "I7: a photo that was stored, and failed after": (
        "partial",
        "UPDATE photos SET status = 'FAILED', object_key = NULL WHERE id = :photo",
        {("I7", PHOTO), ("I6", "objects {key}")},
    ),
    "I7: a photo started again as another attempt, with no end of the first": (
        "processing",
        "UPDATE job_events SET name = 'photo.started', data = '{\"attempt\": 2}' "
        "WHERE photo_id = :photo AND name = 'photo.stored'",
        {("I7", PHOTO)},
    ),
    "I7: a stored photo without an attempt that brought it": (
        "completed",
        "UPDATE attempts SET outcome = 'FAILED' WHERE photo_id = :photo",
        {("I7", PHOTO)},
    ),
    "I7: an ended photo whose attempt nobody will close": (
        "canceled",
        "UPDATE attempts SET close_due_at = NULL WHERE photo_id = :photo",
        {("I7", PHOTO)},
    ),
    "I7: a photo being generated by nobody": (
        "processing",
        "UPDATE attempts SET outcome = 'LOST', ended_at = now() WHERE photo_id = :generating",
        {("I7", "photos {generating}")},
    ),
    "I7: PARTIAL with four photos": (
        "completed",
        "WITH e AS (UPDATE job_events SET name = 'job.partial' WHERE job_id = :job AND name = 'job.completed'), "
        "r AS (INSERT INTO ledger_entries (user_id, kind, amount, balance_after, job_id) "
        "VALUES (:user, 'REFUND', 1, 2, :job)), u AS (UPDATE users SET credits = 2 WHERE id = :user) "
        "UPDATE jobs SET status = 'PARTIAL' WHERE id = :job",
        {("I7", JOB)},
    ),
    "I7: COMPLETED with three photos": (
        "completed",
        "UPDATE photos SET status = 'FAILED', object_key = NULL WHERE id = :photo",
        {("I7", JOB), ("I2", JOB), ("I7", PHOTO), ("I6", "objects {key}")},
    ),
    "I7: the choice of another job's photo": (
        "completed",
        "UPDATE jobs SET selected_photo_id = :stranger WHERE id = :job",
        {("I7", JOB)},
    ),
    "I6: a promised object that is due to be deleted": (
        "completed",
        "INSERT INTO loose_objects VALUES (:key, now() + interval '5 minutes')",
        {("I6", PHOTO)},
    ),
}  # fmt: skip


def drop_what_forbids(world: World) -> None:
    """Take away the constraints and indexes that keep wrong code from planting any of this."""
    for table, name in world.sql(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE contype IN ('c', 'u') AND connamespace = 'public'::regnamespace"
    ):
        world.sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    world.sql("DROP INDEX uq_attempts_one_open")


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_against_a_promise_is_named(full_world: World, planted: str) -> None:
    name, statement, expected = PLANTED[planted]
    photo_ids = full_world.photos[name]
    ids = {
        "user": full_world.users[name],
        "job": full_world.jobs[name],
        "photo": photo_ids[0],
        "generating": photo_ids[1],
        "stranger": full_world.photos["partial"][0],
        "key": full_world.key(name),
    }
    charge = full_world.one(
        "SELECT id FROM ledger_entries WHERE job_id = :id AND kind = 'CHARGE'", id=full_world.jobs[name]
    )
    drop_what_forbids(full_world)
    used = {key: value for key, value in ids.items() if f":{key}" in statement}
    full_world.sql(statement, **used)
    named = {(promise, row.format(**ids, charge=charge, photos=photo_ids)) for promise, row in expected}
    assert {(promise, f"{table} {row}") for promise, table, row in full_world.offences()} == named
    assert planted.startswith(tuple(promise for promise, _ in named))


# --- What objects can break


def test_objects_without_a_row_are_named(full_world: World) -> None:
    stray = ["other/thing", f"photos/{uuid4()}/0/{uuid4()}", f"portraits/{uuid4()}", "zz"]
    for key in stray:
        full_world.storage.put(key, b"x", "image/jpeg")
    assert full_world.offences() == {("I6", "objects", key) for key in stray}


def test_a_thumbnail_that_is_gone_is_named_and_its_photo_is_whole(full_world: World) -> None:
    photo_id = full_world.photos["completed"][0]
    full_world.storage.delete([full_world.one("SELECT thumbnail_key FROM photos WHERE id = :id", id=photo_id)])
    assert full_world.offences(deep=True) == {("I6", "photos", str(photo_id))}


def test_a_loose_object_is_known_for_a_while_and_then_overdue(full_world: World) -> None:
    with Session(full_world.engine) as session, session.begin():
        for key in ("photos/expected", "photos/let-go", "photos/forgotten", "photos/gone"):
            loose_objects.let_go(session, key)
            if key != "photos/gone":
                full_world.storage.put(key, b"x", "image/jpeg")
    full_world.sql("UPDATE loose_objects SET delete_after = now() - interval '14 minutes'")
    assert full_world.offences() == set()
    full_world.sql(
        "UPDATE loose_objects SET delete_after = now() - interval '16 minutes' WHERE object_key ~ 'forgotten|gone'"
    )
    assert full_world.offences() == {("I6", "objects", "photos/forgotten")}


def test_promised_objects_that_are_not_there_are_named(full_world: World) -> None:
    completed, partial = full_world.photos["completed"][2], full_world.photos["partial"][0]
    full_world.storage.delete(
        [full_world.key("completed", 2), full_world.key("partial"), f"portraits/{full_world.jobs['queued']}"]
    )
    assert full_world.offences() == {
        ("I6", "photos", str(completed)),
        ("I2", "jobs", str(full_world.jobs["completed"])),
        ("I6", "photos", str(partial)),
        ("I6", "jobs", str(full_world.jobs["queued"])),
    }


def test_a_deleted_portrait_is_promised_by_nobody(full_world: World) -> None:
    job_id = full_world.jobs["completed"]
    full_world.sql("UPDATE jobs SET portrait_deleted_at = now() WHERE id = :id", id=job_id)
    assert full_world.offences() == {("I6", "objects", f"portraits/{job_id}")}
    full_world.storage.delete([f"portraits/{job_id}"])
    assert full_world.offences() == set()


def test_two_rows_that_promise_one_object_are_both_named(full_world: World) -> None:
    own = full_world.key("completed", 1)
    full_world.sql(
        "UPDATE photos SET object_key = :key, size_bytes = (SELECT size_bytes FROM photos WHERE object_key = :key) "
        "WHERE id = :id", key=full_world.key("completed"), id=full_world.photos["completed"][1],
    )  # fmt: skip
    assert full_world.offences() == {
        ("I6", "objects", own),
        ("I6", "photos", str(full_world.photos["completed"][0])),
        ("I6", "photos", str(full_world.photos["completed"][1])),
    }


def test_a_photo_cut_short_is_named_with_the_job_that_paid_for_it(full_world: World) -> None:
    for name in ("completed", "overdue"):
        key = full_world.key(name)
        full_world.storage.put(key, full_world.storage.get(key).body[:-100], "image/jpeg")
    assert full_world.offences() == {
        ("I2", "jobs", str(full_world.jobs["completed"])),
        ("I6", "photos", str(full_world.photos["overdue"][0])),
    }


def test_only_a_deep_look_finds_a_photo_that_does_not_decode_or_is_another(full_world: World) -> None:
    keys = [full_world.key("completed", slot) for slot in (0, 1)]
    length = len(full_world.storage.get(keys[0]).body)
    full_world.storage.put(keys[0], bytes(length), "image/jpeg")
    out = BytesIO()
    Image.new("RGB", (480, 640), "red").save(out, "JPEG")
    another = out.getvalue().ljust(len(full_world.storage.get(keys[1]).body), b"\0")
    full_world.storage.put(keys[1], another, "image/jpeg")
    assert full_world.offences() == set()
    audited = full_world.audit(deep=True)
    named = {offence.id: offence.says for finding in audited.findings for offence in finding.offences}
    broken, other = (str(photo_id) for photo_id in full_world.photos["completed"][:2])
    assert named.keys() == {broken, other}
    assert "does not decode" in named[broken]
    assert "another file" in named[other]


# --- While the world moves on


@contextmanager
def when_first_listed(storage: DiskStorage, act: Callable[[], None]) -> Iterator[None]:
    """Do something after the rows' snapshot was taken and before the objects are listed."""
    listed = storage.list

    def list_after(prefix: str) -> Any:
        storage.list = listed  # type: ignore[method-assign]
        act()
        return listed(prefix)

    storage.list = list_after  # type: ignore[method-assign]
    yield
    assert storage.list == listed, "nothing was listed"


def test_what_is_stored_or_deleted_during_the_audit_is_no_offence(full_world: World) -> None:
    """The listing shows a job that the snapshot does not know, and lacks an object that the snapshot promises."""

    def move_on() -> None:
        full_world.accept("new")
        full_world.run("new")
        key = f"portraits/{full_world.jobs['failed']}"
        with Session(full_world.engine) as session, session.begin():
            session.execute(
                text("UPDATE jobs SET portrait_deleted_at = now() WHERE id = :id"), {"id": full_world.jobs["failed"]}
            )
            loose_objects.let_go(session, key)
        full_world.storage.delete([key])
        with Session(full_world.engine) as session, session.begin():
            loose_objects.forget(session, [key])
            loose_objects.expect(session, "photos/on/its/way")
        full_world.storage.put("photos/on/its/way", b"x", "image/jpeg")

    with when_first_listed(full_world.storage, move_on):
        audited = full_world.audit()
    assert [offence for finding in audited.findings for offence in finding.offences] == []
    assert audited.proved
    assert full_world.offences() == set()


def test_an_object_that_comes_and_goes_is_no_offence(world: World) -> None:
    """`cuggu doctor` writes and deletes a small object of its own."""
    world.storage.put("probe/1", b"x", "application/octet-stream")
    found = audit_objects._find

    def find_late(storage: Any, key: str) -> Any:
        storage.delete([key])
        return found(storage, key)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_objects, "_find", find_late)
        assert world.offences() == set()


def test_rows_are_seen_as_of_one_moment(full_world: World) -> None:
    """What happens between two checks is seen by none of them: else a later one could find half of a change."""
    job_id = full_world.jobs["completed"]

    def plant(done: int, _of: int) -> None:
        if done == 1:
            full_world.sql("DELETE FROM job_events WHERE job_id = :id AND name = 'job.completed'", id=job_id)

    assert audit(full_world.engine, full_world.storage, on_check=plant).proved
    assert full_world.offences() == {("I3", "jobs", str(job_id))}


def test_nothing_is_changed(full_world: World) -> None:
    def everything() -> dict[str, Any]:
        tables = ("users", "ledger_entries", "jobs", "photos", "attempts", "job_events", "loose_objects")
        rows = {table: sorted(map(str, full_world.sql(f"SELECT t.*, t.xmin FROM {table} t"))) for table in tables}
        return rows | {"objects": list(full_world.storage.list(""))}

    before = everything()
    assert full_world.audit(deep=True).proved
    assert everything() == before


def test_a_storage_that_is_away_proves_nothing_about_objects_and_the_rest_all_the_same(full_world: World) -> None:
    class Away(DiskStorage):
        def list(self, prefix: str) -> Any:
            raise StorageUnavailable(retry_after_seconds=5) from ConnectionError("no")

        def get(self, key: str) -> Any:
            raise StorageUnavailable(retry_after_seconds=5) from ConnectionError("no")

    full_world.sql("UPDATE users SET credits = credits + 1 WHERE id = :id", id=full_world.users["failed"])
    away = Away(Path(str(full_world.storage._root)))
    audited = audit(full_world.engine, away, deep=True)
    assert not audited.proved
    unproved = {finding.says: finding.unproved for finding in audited.findings if finding.unproved}
    assert unproved.keys() == {
        audit_objects.WITHOUT_ROW, audit_objects.WITHOUT_OBJECT, audit_objects.WHOLE, audit_photos.DECODABLE,
    }  # fmt: skip
    assert set(unproved.values()) == {"the storage does not answer: ConnectionError"}
    named = [offence.id for finding in audited.findings for offence in finding.offences]
    assert named == [str(full_world.users["failed"])]


def test_more_suspects_than_one_batch_are_all_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_objects, "LOOKS_PER_BATCH", 3)
    monkeypatch.setattr(audit_photos, "PHOTOS_PER_PAGE", 3)
    stray = [f"stray/{number}" for number in range(7)]
    for key in stray:
        world.storage.put(key, b"x", "image/jpeg")
    world.accept("completed")
    world.run("completed")
    assert world.offences(deep=True) == {("I6", "objects", key) for key in stray}
    assert world.audit(deep=True).findings[-1].promise == "I7"


# --- The command


@pytest.fixture
def command(full_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    settings = full_world.settings
    environment = {
        "DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url, "DATA_DIR": str(settings.data_dir),
    }  # fmt: skip
    return lambda *options: CliRunner().invoke(app, ["audit", *options], env=environment)


def test_the_command_says_what_it_proved_and_how_much_it_looked_at(command: Callable[..., Any]) -> None:
    done = command("--deep")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 22
    assert all(line.startswith("ok ") and line.endswith(" 0") for line in lines[1:])
    assert any("I1" in line and "9 users" in line for line in lines)


def test_the_command_names_what_offends_and_fails(full_world: World, command: Callable[..., Any]) -> None:
    full_world.sql("UPDATE users SET credits = credits + 7 WHERE id = :id", id=full_world.users["completed"])
    full_world.storage.put("stray", b"x", "image/jpeg")
    done = command()
    assert done.exit_code == 1
    user_id = full_world.users["completed"]
    assert f"users {user_id}: the balance is 8, its ledger sums to 1" in done.stdout
    assert "objects stray: no row names it" in done.stdout
    assert sum(line.startswith("WRONG") for line in done.stdout.splitlines()) == 2

    done = command("--json")
    assert done.exit_code == 1
    shown = json.loads(done.stdout)
    assert shown["proved"] is False
    named = {
        (check["promise"], offence["table"], offence["id"])
        for check in shown["checks"]
        for offence in check["offences"]
    }
    assert named == {("I1", "users", str(user_id)), ("I6", "objects", "stray")}
    assert all(check["proved"] is (check["offences"] == []) for check in shown["checks"])
