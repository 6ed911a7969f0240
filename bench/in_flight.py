"""P4: how many jobs one worker process can have at the provider at once, and what each costs it in memory."""

import time

import psutil

from bench.harness import Line, Measured, Must, Void, pss_mb
from bench.provider import Provider, count, provider, provider_and_bucket, queue_for_plain_celery, queue_jobs
from bench.world import World

JOBS, QUICK_JOBS = 1000, 30
WARM_JOBS = 10
STARTING_SECONDS = 240
PREFORK, THREADS = 16, 256
# No limit is in the way, and no prediction ends.
UNLIMITED = {"creates_per_minute": 600_000, "create_burst": 600_000, "others_per_minute": 600_000}
IN_FLIGHT = "SELECT count(*) FROM attempts WHERE outcome = 'OPEN' AND prediction_id IS NOT NULL"


def measure(world: World) -> Measured:
    """PSS of the worker with all jobs at the provider, less what it had with a few of them; the peers' whole."""
    jobs = QUICK_JOBS if world.quick else JOBS
    dials = {**UNLIMITED, "predict_seconds": 3600}
    with provider(**dials) as doubled:
        raw = _ours(world, doubled, jobs)
    with provider_and_bucket(world, **dials) as doubled:
        prefork = _plain(world, doubled, PREFORK, "-P", "prefork")
        threads = _plain(world, doubled, THREADS // 8 if world.quick else THREADS, "-P", "threads")
    each = max(0.0, raw["pss_mb"] - raw["pss_mb_warm"]) / (jobs - WARM_JOBS)
    return Measured(
        "Memory of a worker for each job in flight",
        [
            Line("jobs", "jobs in flight in one worker process", jobs, Must(">=", 1000), f"{jobs:,}",
                 f"{THREADS} (threads)"),
            Line("mb_each", "memory of one more job in flight, MB", each, Must("<=", 0.1), f"{each:.3f}",
                 f"{prefork:.1f} (prefork), {threads:.2f} (threads)"),
        ],
        raw={**raw, "mb_each": each, "prefork_mb_each": prefork, "threads_mb_each": threads},
        bars={"ours": each, f"Celery, {THREADS} threads": threads, "Celery, prefork": prefork},
        unit="MB of PSS per job in flight",
    )  # fmt: skip


def _ours(world: World, doubled: Provider, jobs: int) -> dict[str, float]:
    settings = {
        **world.servers(),
        **doubled.environment,
        "REPLICATE_CREATES_PER_MINUTE": "60000",
        "REPLICATE_READS_PER_MINUTE": "60000",
        "CHECK_INTERVAL_WITH_WEBHOOKS_SECONDS": "30",
        "JOB_DEADLINE_SECONDS": "3600",
    }
    with world.ours(settings, ("worker", "beat")) as stack:
        database_url = stack.environment["DATABASE_URL"]
        queue_jobs(database_url, stack.data_dir, WARM_JOBS)
        _wait_for(database_url, 4 * WARM_JOBS)
        warm = pss_mb(stack.pid("worker"))
        began = time.monotonic()
        queue_jobs(database_url, stack.data_dir, jobs - WARM_JOBS)
        _wait_for(database_url, 4 * jobs)
        seconds = time.monotonic() - began
        return {"jobs": jobs, "pss_mb_warm": warm, "pss_mb": pss_mb(stack.pid("worker")), "starting_seconds": seconds}


def _wait_for(database_url: str, predictions: int) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while (running := count(database_url, IN_FLIGHT)) < predictions:
        if time.monotonic() > deadline:
            raise Void(f"{running:.0f} of {predictions} predictions were started in {STARTING_SECONDS} s")
        time.sleep(0.5)


def _plain(world: World, doubled: Provider, jobs: int, *pool: str) -> float:
    """MB by which plain Celery grows for each job that it has in flight in this pool."""
    servers = world.servers(migrated=False)
    environment = {**servers, **doubled.environment}
    with (
        world.peer("plain_celery.api", environment),
        world.celery("bench.peers.plain_celery.tasks:app", environment, *pool, "-c", str(jobs)) as worker,
    ):
        # Prefork's children stand ready for nothing but jobs; threads come with the jobs.
        idle = psutil.Process(worker).memory_full_info().pss / 1e6
        queue_for_plain_celery(servers, jobs)
        deadline = time.monotonic() + STARTING_SECONDS
        while count(servers["DATABASE_URL"], "SELECT count(*) FROM peer_jobs WHERE status = 'PROCESSING'") < jobs:
            if time.monotonic() > deadline:
                raise Void(f"plain Celery did not begin {jobs} jobs in {STARTING_SECONDS} s")
            time.sleep(0.5)
        time.sleep(5)  # the last ones are on their way to the provider
        return (pss_mb(worker) - idle) / jobs
