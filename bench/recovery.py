"""P8: how long a lost worker or a Redis that has lost everything holds jobs up; what is lost, what is paid twice."""

import os
import signal
import time
from collections import Counter

import psycopg
import redis

from bench.harness import Line, Measured, Must, percentile, pin, server_cores
from bench.in_flight import UNLIMITED
from bench.provider import Provider, count, provider, provider_and_bucket, queue_for_plain_celery, queue_jobs
from bench.world import World
from cli.stack import Stack

KILLS, QUICK_KILLS = 5, 1
HELD_JOBS = 20
QUEUED_JOBS, QUICK_QUEUED_JOBS = 1000, 20
PREDICTION_SECONDS = 3.0
PATIENCE_SECONDS = 240.0
VISIBILITY_SECONDS = "30"

HELD = "SELECT count(DISTINCT job_id) FROM photos WHERE status IN ('GENERATING', 'STORED')"
UNENDED = "SELECT count(*) FROM jobs WHERE completed_at IS NULL"
LAST_END = "SELECT extract(epoch FROM max(completed_at)) FROM jobs"
LOST = "SELECT count(*) FROM jobs WHERE status <> 'COMPLETED'"
SENT = "SELECT id FROM photos WHERE status = 'PENDING' AND sent_at IS NOT NULL"
NOT_SENT_AGAIN = (
    "SELECT count(*) FROM photos WHERE id = ANY(%s) AND status = 'PENDING' AND sent_at <= to_timestamp(%s) "
    "AND lease_token IS NULL"
)
PEER_UNENDED = "SELECT count(*) FROM peer_jobs WHERE ended_at IS NULL"
PEER_BEGUN = "SELECT count(*) FROM peer_jobs WHERE status = 'PROCESSING'"
PEER_LAST_END = "SELECT extract(epoch FROM max(ended_at)) FROM peer_jobs"


def measure(world: World) -> Measured:
    """Seconds from the blow, less the time in which the provider was at work afterwards for these jobs."""
    dials = {**UNLIMITED, "predict_seconds": PREDICTION_SECONDS, "start_seconds": 0.2, "predict_spread": 0.3}
    with provider(**dials) as doubled:
        killed = [_kill(world, doubled) for _ in range(QUICK_KILLS if world.quick else KILLS)]
    with provider(**dials) as doubled:
        emptied, lost = _empty_redis(world, doubled, QUICK_QUEUED_JOBS if world.quick else QUEUED_JOBS)
        twice = _paid_twice(doubled)
    with provider_and_bucket(world, **dials) as doubled:
        plain = _kill_plain(world, doubled)
    took = [seconds for seconds, _, _ in killed]
    lost += sum(lost for _, lost, _ in killed)
    twice += sum(twice for _, _, twice in killed)
    return Measured(
        "Back at work after a blow",
        [
            Line("median_s", f"a worker killed with {HELD_JOBS} jobs: median, s",
                 percentile(took, 0.5), Must("<=", 15), f"{percentile(took, 0.5):.1f} s", f"{plain:.0f} s"),
            Line("worst_s", "the same, worst, s", max(took), Must("<=", 30), f"{max(took):.1f} s"),
            Line("emptied_s", "Redis emptied: until the last lost message is sent again, s", emptied, Must("<=", 30),
                 f"{emptied:.1f} s"),
            Line("lost", "jobs lost", lost, Must("<=", 0), f"{lost:.0f}"),
            Line("paid_twice", "photos paid for twice", twice, Must("<=", 0), f"{twice}"),
        ],
        raw={"killed_s": [seconds for seconds, _, _ in killed], "redis_emptied_s": emptied, "plain_celery_s": plain},
        bars={"ours": percentile(took, 0.5), f"Celery, visibility timeout {VISIBILITY_SECONDS} s": plain},
        unit="seconds",
    )  # fmt: skip


def _kill(world: World, doubled: Provider) -> tuple[float, float, int]:
    """(recovery, lost, paid twice). The worker is started again at once, as whatever runs it would."""
    known = len(doubled.double.book("predictions"))
    with world.ours({**world.servers(), **_unlimited(doubled)}, ("api", "worker", "beat")) as stack:
        database_url = stack.environment["DATABASE_URL"]
        queue_jobs(database_url, stack.data_dir, HELD_JOBS)
        _until(database_url, HELD, HELD_JOBS)
        struck = time.time()
        stack.kill_process("worker")
        _start_again(stack)
        _until_none(database_url, UNENDED)
        runs = doubled.double.book("predictions")[known:]
        recovery = count(database_url, LAST_END) - struck - doubled.busy_seconds(runs, since=struck)
        return recovery, count(database_url, LOST), _paid_twice(doubled, known)


def _empty_redis(world: World, doubled: Provider, jobs: int) -> tuple[float, float]:
    """(seconds until every photo whose message was lost is at work or queued again, jobs lost)."""
    with world.ours({**world.servers(), **_unlimited(doubled)}, ("api", "worker", "beat")) as stack:
        database_url = stack.environment["DATABASE_URL"]
        queue_jobs(database_url, stack.data_dir, jobs)
        _until(database_url, HELD, min(jobs // 10, HELD_JOBS))
        with redis.Redis.from_url(stack.environment["REDIS_URL"]) as client, psycopg.connect(database_url) as database:
            client.flushall()
            struck = time.time()
            queued = [photo_id for (photo_id,) in database.execute(SENT)]
        while count(database_url, NOT_SENT_AGAIN, queued, struck) and time.time() - struck < PATIENCE_SECONDS:
            time.sleep(0.05)
        seconds = time.time() - struck
        stack.start_process("worker-2")  # on the other core: what is left to see does not hang on time
        _until_none(database_url, UNENDED)
        return seconds, count(database_url, LOST)


def _kill_plain(world: World, doubled: Provider) -> float:
    """The same kill, of a worker with a process for each job. What never comes back counts as the patience."""
    servers = world.servers(migrated=False)
    environment = {**servers, **doubled.environment, "VISIBILITY_TIMEOUT_SECONDS": VISIBILITY_SECONDS}
    app, jobs = "bench.peers.plain_celery.tasks:app", 4 if world.quick else HELD_JOBS
    with world.peer("plain_celery.api", environment):
        with world.celery(app, environment, "-c", str(jobs), killed=True) as worker:
            queue_for_plain_celery(servers, jobs)
            _until(servers["DATABASE_URL"], PEER_BEGUN, jobs)
            time.sleep(PREDICTION_SECONDS / 2)
            struck = time.time()
            os.killpg(worker, signal.SIGKILL)  # with its children, as a container's end would
        with world.celery(app, environment, "-c", str(jobs)):
            patience = 10 if world.quick else PATIENCE_SECONDS
            _until_none(servers["DATABASE_URL"], PEER_UNENDED, patience)
            runs = doubled.double.book("predictions")
            ended = time.time()
            if not count(servers["DATABASE_URL"], PEER_UNENDED):
                ended = count(servers["DATABASE_URL"], PEER_LAST_END)
            return ended - struck - doubled.busy_seconds(runs, since=struck)


def _unlimited(doubled: Provider) -> dict[str, str]:
    limits = {"REPLICATE_CREATES_PER_MINUTE": "60000", "REPLICATE_READS_PER_MINUTE": "60000"}
    return {**doubled.environment, **limits}


def _start_again(stack: Stack) -> None:
    stack.start_process("worker")
    pin(stack.pid("worker"), server_cores())


def _paid_twice(doubled: Provider, known: int = 0) -> int:
    """Photos for which more than one prediction cost something."""
    runs = doubled.double.book("predictions")[known:]
    paid = Counter(str(run["webhook"]).partition("photo=")[2][:36] for run in runs if float(run["cost_usd"]) > 0)
    return sum(1 for times in paid.values() if times > 1)


def _until(database_url: str, statement: str, wanted: float) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while count(database_url, statement) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)


def _until_none(database_url: str, statement: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + patience_seconds
    while count(database_url, statement) and time.monotonic() < deadline:
        time.sleep(0.2)
