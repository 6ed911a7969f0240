"""A worker that is connected and consumes nothing is noticed by what it does, ended, and started again."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis
from celery import Celery
from sqlalchemy import Engine, text

from cli.embedded import EmbeddedRedis
from shared.disk_storage import DiskStorage
from shared.queue import COLLECT_QUEUE, START_QUEUE, JobQueue, make_celery
from shared.settings import Settings
from tests.api_client import hanging_server
from tests.photos import one_face
from tests.rows import accepted_job, money_is_right
from tests.stack import RunningStack
from tests.test_embedded import is_gone
from tests.waiting import wait_until
from worker.health import readyz
from worker.watchdog import HEARTBEAT_QUEUE_SECONDS, LONGEST_STEP_LEASES, Consumption

Start = Callable[..., RunningStack]
STALL_SECONDS = 5
QUICK = {"WORKER_STALL_SECONDS": str(STALL_SECONDS)}
PATIENCE_SECONDS = 60


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """What a worker of two threads was seen to do, second by second. It should take something every 20 seconds."""

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self.longest_step_seconds = LONGEST_STEP_LEASES * settings.lease_seconds
        self.seen = Consumption((START_QUEUE, COLLECT_QUEUE), 2, settings, self.clock)

    def stall(self, seconds: float, lengths: dict[str, int] | None, *, beating: bool = True) -> str | None:
        for _ in range(int(seconds)):
            self.clock.now += 1
            if beating:
                self.seen.taken("heartbeat.worker@here")
            if found := self.seen.stall(lengths):
                return found
        return None


NOTHING = {START_QUEUE: 0, COLLECT_QUEUE: 0}
SOME = {START_QUEUE: 0, COLLECT_QUEUE: 3}


@pytest.fixture
def watched(offline_settings: Settings) -> Watched:
    return Watched(offline_settings)


def test_a_worker_that_takes_its_heartbeats_is_alive_and_one_that_does_not_has_stalled(watched: Watched) -> None:
    assert not watched.seen.alive, "nothing was seen yet"
    assert watched.stall(100, NOTHING) is None
    assert watched.seen.alive
    assert watched.stall(19, NOTHING, beating=False) is None
    assert watched.stall(1, NOTHING, beating=False) == "took nothing, not even its own heartbeats"
    assert not watched.seen.alive


def test_a_queue_that_is_left_alone_is_a_stall_although_heartbeats_come(watched: Watched) -> None:
    for _ in range(10):
        assert watched.stall(19, SOME) is None
        watched.seen.taken(COLLECT_QUEUE)
    assert watched.stall(19, SOME) is None
    assert watched.stall(1, NOTHING) is None  # somebody else took them
    assert watched.stall(19, SOME) is None
    assert watched.stall(1, SOME) == "took none of the 3 messages in the queue collect"


def test_a_redis_that_is_away_sets_the_clocks_anew(watched: Watched) -> None:
    watched.stall(19, SOME)
    assert watched.stall(100, None, beating=False) is None
    assert not watched.seen.alive
    assert watched.stall(19, SOME, beating=False) is None
    assert watched.stall(1, SOME, beating=False)


def test_a_busy_worker_has_not_stalled_unless_its_steps_never_end(watched: Watched) -> None:
    watched.seen.step_began()
    watched.seen.step_began()
    assert watched.stall(watched.longest_step_seconds - 1, SOME, beating=False) is None
    assert watched.seen.alive
    watched.seen.step_ended()
    watched.seen.step_began()
    assert watched.stall(watched.longest_step_seconds - 1, SOME, beating=False) is None
    assert watched.stall(1, SOME, beating=False) == "all 2 threads are in steps that do not end"


def test_a_process_that_was_stopped_itself_looks_afresh(watched: Watched) -> None:
    watched.seen.step_began()
    watched.seen.step_began()
    watched.stall(1, SOME)
    watched.clock.now += 1000
    assert watched.seen.stall(SOME) is None
    watched.seen.step_ended()
    assert watched.stall(19, SOME, beating=False) is None
    assert watched.stall(1, SOME, beating=False)


def celery_of(redis_url: str, settings: Settings) -> Celery:
    return make_celery(settings.model_copy(update={"redis_url": redis_url}))


def consumed(app: Celery) -> set[str]:
    """The queues of the one worker there is, as it answers when it is asked."""
    (found,) = app.control.inspect(timeout=5, limit=1).active_queues().values()
    return {queue["name"] for queue in found}


def stop_consuming(app: Celery, *queues: str) -> None:
    """What leaves a worker connected, answering, and taking nothing; of `queues`, or of all it has."""
    left = consumed(app) - set(queues) if queues else set()
    for name in consumed(app) - left:
        app.control.cancel_consumer(name)
    wait_until(lambda: consumed(app) == left)


def parts(stack: RunningStack) -> tuple[int, dict[str, bool]]:
    """(status, parts) of the worker's /readyz."""
    answer = httpx.get(f"{stack.health_url('worker')}/readyz", trust_env=False, timeout=10)
    return answer.status_code, answer.json()


@pytest.mark.timeout(300)
def test_a_worker_that_consumes_nothing_is_started_again_and_its_job_completed(
    running_stack: Start, settings: Settings, engine: Engine
) -> None:
    # A photo that somebody holds would not be free again before the test gives up.
    stack = running_stack(env={**QUICK, "LEASE_SECONDS": "300", "PREVIEW_SECONDS": "2"}, processes=("worker", "beat"))
    pid = stack.pid("worker")
    stop_consuming(celery_of(settings.redis_url, settings))
    _, job_id, _ = accepted_job(engine)
    DiskStorage(settings.data_dir / "objects").put(f"portraits/{job_id}", one_face(), "image/jpeg")

    def completed() -> bool:
        stack.tend()
        with engine.connect() as connection:
            return connection.execute(text("SELECT status FROM jobs")).scalar_one() == "COMPLETED"

    wait_until(completed, PATIENCE_SECONDS)
    assert is_gone(pid)
    assert f"worker exited with {os.EX_TEMPFAIL}; starting it again" in stack.logs("stack")
    assert "worker.stalled" in stack.logs("worker")
    money_is_right(engine)


@pytest.mark.timeout(300)
def test_a_worker_that_lost_one_of_its_queues_is_noticed(running_stack: Start, settings: Settings) -> None:
    stack = running_stack(env=QUICK, processes=("worker",))
    pid = stack.pid("worker")
    app = celery_of(settings.redis_url, settings)
    stop_consuming(app, COLLECT_QUEUE)
    queue = JobQueue(app, settings.redis_url)
    assert queue.start_photos([uuid4()])
    wait_until(lambda: queue.length(START_QUEUE) == 0)
    assert queue.collect_photos([uuid4()])
    wait_until(lambda: is_gone(pid), PATIENCE_SECONDS)
    assert "took none of the 1 messages in the queue collect" in stack.logs("worker")


@pytest.mark.timeout(300)
def test_a_worker_outlives_a_redis_that_was_away(running_stack: Start, settings: Settings, open_dir: Path) -> None:
    with EmbeddedRedis(open_dir, durable=False) as server:
        stack = running_stack(env={**QUICK, "REDIS_URL": server.url}, processes=("worker",))
        pid = stack.pid("worker")
        assert parts(stack) == (200, {"database": True, "redis": True, "consuming": True})
        server.stop()
        wait_until(lambda: parts(stack) == (503, {"database": True, "redis": False, "consuming": False}))
        # By then it has been away for longer than a stall may last.
        wait_until(lambda: stack.logs("worker").count("Trying again in") >= 1 + STALL_SECONDS / 2, PATIENCE_SECONDS)
        server.start()
        wait_until(lambda: parts(stack)[0] == 200, PATIENCE_SECONDS)
        assert stack.pid("worker") == pid
        assert not is_gone(pid)
        queue = JobQueue(celery_of(server.url, settings), server.url)
        assert queue.start_photos([uuid4()])
        wait_until(lambda: queue.length(START_QUEUE) == 0)


@pytest.mark.timeout(300)
def test_a_worker_consumes_what_it_was_told_to_and_leaves_nothing_in_redis_for_long(
    running_stack: Start, settings: Settings
) -> None:
    running_stack(env=QUICK, processes=("worker",))
    app = celery_of(settings.redis_url, settings)
    (heartbeats,) = consumed(app) - {"start", "collect", "maintenance"}
    assert consumed(app) == {"start", "collect", "maintenance", heartbeats}
    with redis.Redis.from_url(settings.redis_url) as client:
        stop_consuming(app, heartbeats)
        wait_until(lambda: 0 < client.pttl(heartbeats) <= HEARTBEAT_QUEUE_SECONDS * 1000)
        assert client.llen(heartbeats) == 1
        assert client.zscore("_kombu.binding_deadlines", heartbeats) is not None


@pytest.mark.timeout(300)
def test_a_workers_health_follows_what_it_needs(running_stack: Start, settings: Settings) -> None:
    stack = running_stack(processes=("worker",))
    url = stack.health_url("worker")
    assert httpx.get(f"{url}/healthz", trust_env=False).text == "ok"
    assert httpx.get(f"{url}/elsewhere", trust_env=False).status_code == 404
    stop_consuming(celery_of(settings.redis_url, settings))
    assert parts(stack)[0] == 200, "that it consumes was seen a moment ago"
    assert stack.send_signal("worker", signal.SIGTERM)
    wait_until(lambda: is_gone(stack.pid("worker")), PATIENCE_SECONDS)


def test_servers_that_hang_do_not_hang_what_a_worker_says(offline_settings: Settings) -> None:
    with hanging_server() as address:
        hung = {"database_url": f"postgresql://cuggu@{address}/cuggu", "redis_url": f"redis://{address}/0"}
        began = time.monotonic()
        page = readyz(offline_settings.model_copy(update=hung), lambda: True)
        assert time.monotonic() - began < 5
    assert page.status == 503
    assert json.loads(page.body) == {"database": False, "redis": False, "consuming": True}
