"""The sweep over a real PostgreSQL and Redis: it finds what messages lost, and no trouble in one place stops it."""

from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from kombu.transport.redis import Channel
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, jobs, leases, photos
from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.errors import StorageUnavailable
from shared.queue import COLLECT_QUEUE, MAINTENANCE_QUEUE, START_QUEUE, JobQueue, make_celery
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.rows import accepted_job, money_is_right
from worker import sweeper


class World:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.sessions = sessionmaker(engine, expire_on_commit=False)
        self.celery: Celery = make_celery(settings)
        self.queue = JobQueue(self.celery, settings.redis_url)
        self.redis = Redis.from_url(settings.redis_url)

    def sweep(self) -> None:
        sweeper.sweep(self.sessions, self.queue, ChangeNotes(self.settings.redis_url), self.settings)

    def waiting(self, queue: str) -> int:
        return int(self.redis.llen(queue))  # type: ignore[arg-type]

    def execute(self, statement: str, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def statuses(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(text("SELECT status FROM jobs ORDER BY created_at")).scalars())


@pytest.fixture
def world(engine: Engine, settings: Settings) -> World:
    return World(engine, settings)


def test_a_message_whose_channel_another_thread_closes_was_not_sent_and_harms_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, photo_ids = accepted_job(world.engine)
    put = Channel._put

    def closed_before(channel: Channel, *args: Any, **kwargs: Any) -> None:
        channel.close()
        put(channel, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Channel, "_put", closed_before)
        assert not world.queue.start_photos(photo_ids)
    assert world.queue.start_photos(photo_ids)
    assert world.waiting(START_QUEUE) == 4


def test_what_was_never_sent_is_sent_and_not_sent_again_at_once(world: World) -> None:
    accepted_job(world.engine)
    world.sweep()
    assert world.waiting(START_QUEUE) == 0, "the API has just told the queue itself"
    world.execute("UPDATE photos SET sent_at = now() - interval '1 hour'")
    world.sweep()
    world.sweep()
    assert world.waiting(START_QUEUE) == 4


def test_a_running_prediction_is_looked_at_when_its_time_has_come(world: World) -> None:
    _, _, photo_ids = accepted_job(world.engine)
    with Session(world.engine) as session, session.begin():
        claim = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert claim is not None
        photos.open_attempt(session, claim, "replicate", "flux")
    world.sweep()
    assert world.waiting(COLLECT_QUEUE) == 0, "its worker holds it"
    world.execute("UPDATE photos SET next_check_at = now() - interval '1 second' WHERE lease_token IS NOT NULL")
    world.sweep()
    assert world.waiting(COLLECT_QUEUE) == 1


def test_a_long_queue_is_not_made_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "QUEUE_LENGTH_MAX", 3)
    accepted_job(world.engine)
    world.execute("UPDATE photos SET sent_at = NULL")
    for _ in range(3):
        world.sweep()
        world.execute("UPDATE photos SET sent_at = NULL")
    assert world.waiting(START_QUEUE) == 3


def test_a_job_that_somebody_holds_does_not_hold_up_the_others(world: World) -> None:
    held = accepted_job(world.engine, deadline_seconds=0)[1]
    accepted_job(world.engine, deadline_seconds=0)
    accepted_job(world.engine)
    world.execute("UPDATE photos SET sent_at = NULL")
    with Session(world.engine) as standing_still:
        assert jobs.lock(standing_still, held) is not None
        world.sweep()
        assert world.statuses() == ["QUEUED", "FAILED", "QUEUED"]
        assert world.waiting(START_QUEUE) >= 4
    world.sweep()
    assert world.statuses() == ["FAILED", "FAILED", "QUEUED"]
    money_is_right(world.engine)


def test_a_fault_with_one_job_leaves_the_others_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = accepted_job(world.engine, deadline_seconds=0)[1]
    accepted_job(world.engine, deadline_seconds=0)
    settle = jobs.settle_overdue

    def fail_for_one(session: Session, job_id: UUID) -> object:
        if job_id == broken:
            raise RuntimeError("a fault")
        return settle(session, job_id)

    monkeypatch.setattr(jobs, "settle_overdue", fail_for_one)
    world.sweep()
    assert world.statuses() == ["QUEUED", "FAILED"]


def test_an_unwanted_attempt_is_sent_to_be_closed(world: World) -> None:
    user_id, job_id, photo_ids = accepted_job(world.engine)
    with Session(world.engine) as session, session.begin():
        claim = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert claim is not None
        attempt = photos.open_attempt(session, claim, "replicate", "flux")
        attempts.record_prediction(session, attempt.id, "abc")
    with Session(world.engine) as session, session.begin():
        jobs.cancel(session, user_id, job_id)
    world.sweep()
    world.sweep()
    assert world.waiting(MAINTENANCE_QUEUE) == 1


def test_without_redis_nothing_is_marked_as_sent(world: World) -> None:
    accepted_job(world.engine)
    world.execute("UPDATE photos SET sent_at = NULL")
    away = world.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    alone = World(world.engine, away)
    alone.sweep()
    world.sweep()
    assert world.waiting(START_QUEUE) == 4


def test_objects_that_no_row_promises_are_deleted_and_the_others_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DiskStorage(world.settings.data_dir / "objects")
    _, job_id, _ = accepted_job(world.engine)
    for key in (f"portraits/{job_id}", "portraits/forgotten", "photos/a/0/just-being-put"):
        storage.put(key, b"x", "image/jpeg")
    world.execute(
        "INSERT INTO loose_objects VALUES ('portraits/forgotten', now() - interval '1 s'), "
        "('photos/a/0/just-being-put', now() + interval '5 minutes'), ('portraits/never-put', now())"
    )
    with monkeypatch.context() as away:
        away.setattr(DiskStorage, "delete", _raise_unavailable)
        with pytest.raises(StorageUnavailable):
            sweeper.delete_loose_objects(world.sessions, storage)
    world.execute("UPDATE loose_objects SET delete_after = delete_after - interval '61 seconds'")
    sweeper.delete_loose_objects(world.sessions, storage)
    assert [found.key for found in storage.list("")] == ["photos/a/0/just-being-put", f"portraits/{job_id}"]
    with world.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM loose_objects")).scalar_one() == 1


def _raise_unavailable(*_: object) -> None:
    raise StorageUnavailable(retry_after_seconds=1)
