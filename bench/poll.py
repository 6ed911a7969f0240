"""P1: how many polls of a job one core answers, beside the least a server can do and beside what tutorials show."""

from collections.abc import Sequence
from contextlib import ExitStack

from bench.harness import Comparison, Line, Measured, Must, Run, as_raw, compare, cpu_seconds
from bench.load import closed_loop, get
from bench.rows import OwnedJob, reopen, some_jobs, write_history
from bench.world import SECRET, World, token

USERS = 50
CONNECTIONS = 32
SECONDS, QUICK_SECONDS = 2.5, 1.0


def measure(world: World) -> Measured:
    """Requests per second of processor time of the serving process, which is what one core of it answers."""
    database_url, redis_url = world.database(), world.redis()
    write_history(database_url, 2 * USERS * 10)
    jobs = some_jobs(database_url, USERS)
    in_work, finished = jobs[::2], jobs[1::2]
    reopen(database_url, in_work)
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    with ExitStack() as running:
        stack = running.enter_context(world.ours(servers))
        bare = running.enter_context(world.peer("bare_poll", servers))
        orm = running.enter_context(world.peer("orm_poll", {**servers, "JWT_SECRET": SECRET}))

        def rate(pid: int, url: str, asked: Sequence[OwnedJob]) -> Run:
            requests = [get(url, f"/jobs/{job.id}", token(job.email)) for job in asked]
            seconds = QUICK_SECONDS if world.quick else SECONDS

            def run() -> float:
                before = cpu_seconds(pid)
                load = closed_loop(url, requests, connections=CONNECTIONS, seconds=seconds)
                return load.answers / (cpu_seconds(pid) - before)

            run()  # connections, statements and caches as they are on any other day
            return run

        def beside_peers(asked: Sequence[OwnedJob]) -> Comparison:
            peers = {"bare": rate(bare.pid, bare.url, asked), "orm": rate(orm.pid, orm.url, asked)}
            ours = rate(stack.pid("api"), stack.api_url, asked)
            return compare(ours, peers, quick=world.quick)

        working, ended = beside_peers(in_work), beside_peers(finished)

    def line(key: str, what: str, comparison: Comparison, peer: str, must: Must | None) -> Line:
        return Line(key, what, comparison.ratios[peer].median, must, f"{comparison.ours.median:,.0f}/s",
                    f"{comparison.peers[peer].median:,.0f}/s")  # fmt: skip

    return Measured(
        "Polls of a job, a second and core",
        [
            line("ratio_a", "poll, job in work, beside Starlette + psycopg", working, "bare", Must(">=", 0.85)),
            line("ratio_b", "poll, job in work, beside FastAPI + ORM", working, "orm", Must(">=", 3)),
            line("ratio_a_finished", "poll, finished job, beside Starlette + psycopg", ended, "bare", Must(">=", 0.85)),
            line("ratio_b_finished", "poll, finished job, beside FastAPI + ORM", ended, "orm", Must(">=", 3)),
        ],
        raw={"in_work": as_raw(working), "finished": as_raw(ended)},
        bars={
            "ours, finished job": ended.ours.median,
            "ours, job in work": working.ours.median,
            "Starlette + psycopg, one row": working.peers["bare"].median,
            "FastAPI + ORM": working.peers["orm"].median,
        },
        unit="requests per second and core",
    )
