"""P5: how much of what the provider allows is used, by one worker process, and whether it ever has to say no."""

import time

from bench.harness import Line, Measured, Must
from bench.provider import Provider, count, provider, provider_and_bucket, queue_for_plain_celery, queue_jobs
from bench.world import World

CREATES_PER_MINUTE, READS_PER_MINUTE = 600, 3000
LIMIT = CREATES_PER_MINUTE / 4  # jobs a minute, at four predictions a job
PREDICTION_SECONDS = 12.0
WINDOW_SECONDS, PEER_WINDOW_SECONDS, QUICK_WINDOW_SECONDS = 90.0, 45.0, 15.0
# Until as many predictions end as begin, and the first burst is over.
RAMP_SECONDS = 30.0
PEER_THREADS = 256

STORED = "SELECT count(*) FROM photos WHERE status = 'STORED'"
PEER_STORED = "SELECT count(*) FROM peer_photos"


def measure(world: World) -> Measured:
    """Photos stored in a window of the steady state, four to a job, beside what 600 creates a minute allow."""
    window = QUICK_WINDOW_SECONDS if world.quick else WINDOW_SECONDS
    dials = {"predict_seconds": PREDICTION_SECONDS - 1, "start_seconds": 1, "predict_spread": 0.2,
             "creates_per_minute": CREATES_PER_MINUTE, "create_burst": CREATES_PER_MINUTE // 10,
             "others_per_minute": READS_PER_MINUTE}  # fmt: skip
    with provider(**dials) as doubled:
        ours, refused = _ours(world, doubled, window)
    with provider_and_bucket(world, **dials) as doubled:
        peer, peer_refused = _threads(world, doubled, QUICK_WINDOW_SECONDS if world.quick else PEER_WINDOW_SECONDS)
    return Measured(
        "Jobs a minute, of 150 that the provider allows",
        [
            Line("ratio", "jobs a minute, of what 600 creates a minute allow", ours / LIMIT, Must(">=", 0.95),
                 f"{ours:.0f}", f"{peer:.0f}", f"{LIMIT:.0f}"),
            Line("refused", "answers 429", refused, Must("<=", 0), f"{refused}", f"{peer_refused}"),
        ],
        raw={"ours": {"jobs_per_minute": ours, "refused": refused},
             "blocking_run": {"jobs_per_minute": peer, "refused": peer_refused}},
        bars={"allowed": LIMIT, "ours, one process": ours, f"blocking run, {PEER_THREADS} threads": peer},
        unit="jobs per minute",
    )  # fmt: skip


def _ours(world: World, doubled: Provider, window: float) -> tuple[float, int]:
    with world.ours({**world.servers(), **doubled.environment}, ("api", "worker", "beat")) as stack:
        database_url = stack.environment["DATABASE_URL"]
        queue_jobs(database_url, stack.data_dir, int(LIMIT / 60 * (window + 2 * RAMP_SECONDS)))
        return _per_minute(database_url, STORED, window), doubled.refused()


def _threads(world: World, doubled: Provider, window: float) -> tuple[float, int]:
    """Plain Celery in its thread pool, each thread in a blocking `replicate.run`."""
    servers = world.servers(migrated=False)
    environment = {**servers, **doubled.environment}
    with (
        world.peer("plain_celery.api", environment),  # it makes the tables
        world.celery("bench.peers.plain_celery.tasks:app", environment, "-P", "threads", "-c", f"{PEER_THREADS}"),
    ):
        queue_for_plain_celery(servers, int(LIMIT / 60 * (window + 2 * RAMP_SECONDS)))
        return _per_minute(servers["DATABASE_URL"], PEER_STORED, window), doubled.refused()


def _per_minute(database_url: str, stored: str, window: float) -> float:
    time.sleep(RAMP_SECONDS)
    began, before = time.monotonic(), count(database_url, stored)
    time.sleep(window)
    return (count(database_url, stored) - before) / 4 * 60 / (time.monotonic() - began)
