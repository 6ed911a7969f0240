"""P9: what a system that nobody uses costs in memory, beside the usual prefork workers."""

import time

from bench.harness import Line, Measured, Must, pss_mb
from bench.world import World

SETTLING_SECONDS = 5.0
PREFORK_CHILDREN = "8"


def measure(world: World) -> Measured:
    """PSS of API, worker and beat with every setting at its default, in MB of a million bytes.

    The same processes are read twice and nothing is divided, so there is no control here.
    """
    ours = world.servers()
    with world.ours(ours, ("api", "worker", "beat")) as stack:
        time.sleep(SETTLING_SECONDS)
        parts = {name: pss_mb(stack.pid(name)) for name in stack.processes}
    peer = world.servers(migrated=False) | {
        "WORKER_CONCURRENCY": PREFORK_CHILDREN,
        "S3_BUCKET_NAME": "none",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    with (
        world.peer("plain_celery.api", peer) as api,
        world.celery("bench.peers.plain_celery.tasks:app", peer) as worker,
    ):
        time.sleep(SETTLING_SECONDS)
        plain = {"api": pss_mb(api.pid), "worker": pss_mb(worker)}
    total, plain_total = sum(parts.values()), sum(plain.values())
    return Measured(
        "Memory of the idle system",
        [Line("pss_mb", "idle API, worker and beat", total, Must("<=", 250), f"{total:.0f} MB",
              f"{plain_total:.0f} MB")],
        raw={"ours": parts, "plain_celery": plain},
        bars={"ours": total, "plain Celery, 8 processes": plain_total},
        unit="MB, PSS",
    )  # fmt: skip
