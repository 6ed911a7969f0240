"""P7: whether anything gets slower with the history: the same calls with a million jobs and with a thousand."""

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import httpx
import psycopg
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from bench.harness import (
    Comparison,
    Line,
    Measured,
    Must,
    RoundVoid,
    Run,
    as_raw,
    compare,
    other_cores,
    percentile,
    pin,
    server_cores,
)
from bench.load import closed_loop, get, post
from bench.rows import HEAVY_USER, some_jobs, write_history
from bench.world import SECRET, World, token
from cli.stack import Stack
from shared import audit, staff
from shared.change_notes import ChangeNotes
from shared.database import make_engine
from shared.queue import JobQueue, make_celery
from shared.settings import Settings
from shared.staff_actions import Actor
from shared.telemetry import configure_logging
from tests.photos import one_face
from worker import sweeper

FEW, MANY, QUICK_MANY = 1_000, 1_000_000, 10_000
HEAVY_JOBS = 20_000  # of one user, so that there is a page 1,000
PAGE = 20
SECONDS, QUICK_SECONDS = 1.2, 0.2
SWEEPS = 50
AUDITED_JOBS = 100_000  # a thousand are audited in a blink, and so as often as this takes
STAFF = "staff@bench.example"
MUST = Must("<=", 1.15)

_NTH = (
    "SELECT j.created_at, j.id FROM jobs j JOIN users u ON u.id = j.user_id WHERE u.email = %s "
    "ORDER BY j.created_at DESC, j.id DESC OFFSET %s LIMIT 1"
)
_OFFSET = (
    "WITH owner AS (SELECT id FROM users WHERE email = %s) "
    "SELECT j.*, (SELECT count(*) FROM jobs WHERE user_id = (SELECT id FROM owner)) FROM jobs j "
    "WHERE j.user_id = (SELECT id FROM owner) ORDER BY j.created_at DESC, j.id DESC OFFSET %s LIMIT 20"
)


class _History:
    """One history, the API over it, and the calls that are timed. Times are the p95 of a call, in ms."""

    def __init__(self, world: World, running: ExitStack, jobs: int, heavy: int) -> None:
        servers = world.servers()
        assert world.postgres.process is not None
        pin(world.postgres.process.pid, server_cores() | other_cores())  # nothing is measured yet
        write_history(servers["DATABASE_URL"], jobs, heavy)
        pin(world.postgres.process.pid, other_cores())
        generous = {"UPLOADS_PER_WINDOW": "100000", "SUBMISSIONS_PER_WINDOW": "100000"}
        self.jobs = jobs
        self.database_url = servers["DATABASE_URL"]
        self.seconds = QUICK_SECONDS if world.quick else SECONDS
        self.stack: Stack = running.enter_context(world.ours(servers | generous))
        self.settings = Settings(
            _env_file=None, database_url=self.database_url, redis_url=servers["REDIS_URL"], log_level="WARNING"
        )
        configure_logging(self.settings)  # the sweep runs in this process
        self.engine = make_engine(self.database_url, transaction_pooling=False)
        running.callback(self.engine.dispose)
        self.sample = some_jobs(self.database_url, 20)
        self.last_page = heavy // PAGE - 1

    def called(self, path: Callable[["_History"], list[tuple[str, str]]]) -> Run:
        """GET these paths as these users, one after another on one connection."""
        requests = [get(self.stack.api_url, at, token(email)) for at, email in path(self)]

        def run() -> float:
            load = closed_loop(self.stack.api_url, requests, connections=1, seconds=self.seconds)
            return percentile(load.latencies_ms, 0.95)

        run()
        return run

    def submitted(self) -> Run:
        request = post(self.stack.api_url, "/jobs", token("buyer@bench.example"), one_face())
        with psycopg.connect(self.database_url) as connection:
            connection.execute(
                "INSERT INTO users (id, email, credits) VALUES (gen_random_uuid(), 'buyer@bench.example', 100000)"
            )

        def run() -> float:
            load = closed_loop(self.stack.api_url, [request], connections=1, seconds=self.seconds, expected=202)
            return percentile(load.latencies_ms, 0.95)

        run()
        return run

    def searched(self) -> Run:
        """A user looked for by how the address begins, one that is found, by the page's cookie as staff do it."""
        settings = self.settings.model_copy(update={"jwt_secret": SecretStr(SECRET)})
        with Session(self.engine) as session, session.begin():
            staff.add(session, Actor.command("bench"), STAFF, settings)
        with httpx.Client(base_url=self.stack.api_url, trust_env=False) as http:
            signed_in = http.post("/session", headers={"Authorization": f"Bearer {token(STAFF)}"}).raise_for_status()
        cookie = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
        paths = [f"/admin/users?q=user{number}%40" for number in range(10, 20)]
        requests = [get(self.stack.api_url, path, Cookie=cookie) for path in paths]

        def run() -> float:
            load = closed_loop(self.stack.api_url, requests, connections=1, seconds=self.seconds)
            return percentile(load.latencies_ms, 0.95)

        run()
        return run

    def swept(self) -> Run:
        sessions = sessionmaker(self.engine)
        queue = JobQueue(make_celery(self.settings), self.settings.redis_url)
        notes = ChangeNotes(self.settings.redis_url)
        return lambda: _p95(lambda: sweeper.sweep(sessions, queue, notes, self.settings), SWEEPS)

    def audited(self) -> Run:
        """The whole of it reads the whole history, so its time is divided by the jobs in it; µs."""
        times = max(1, AUDITED_JOBS // self.jobs)

        def run() -> float:
            began = time.perf_counter()
            for _ in range(times):
                with audit.snapshot(self.engine) as connection:
                    findings = audit.prove_rows(connection)
                if not all(finding.proved for finding in findings):
                    raise RoundVoid("the history offends against the promises")
            return 1e6 * (time.perf_counter() - began) / (times * self.jobs)

        return run

    def cursor(self, page: int) -> str:
        """Where that page of the heavy user's history begins; empty for the first."""
        if page == 0:
            return ""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(_NTH, (HEAVY_USER, page * PAGE - 1)).fetchone()
        assert row is not None
        at, job_id = row
        assert isinstance(job_id, UUID)
        return "&cursor=" + urlsafe_b64encode(f"{at.isoformat()}|{job_id}".encode()).decode()

    def offset(self, page: int) -> float:
        """The same page as it is usually read, with OFFSET and a count; ms."""
        with psycopg.connect(self.database_url) as connection:
            return _p95(lambda: connection.execute(_OFFSET, (HEAVY_USER, page * PAGE)).fetchall(), SWEEPS)


def measure(world: World) -> Measured:
    """p95 of each call with many jobs over its p95 with few, in interleaved rounds."""
    with ExitStack() as running:
        few = _History(world, running, FEW, FEW // 2)
        heavy = QUICK_MANY // 2 if world.quick else HEAVY_JOBS
        many = _History(world, running, QUICK_MANY if world.quick else MANY, heavy)

        def polls(history: _History) -> list[tuple[str, str]]:
            return [(f"/jobs/{job.id}", job.email) for job in history.sample]

        def page(number: int) -> Callable[[_History], list[tuple[str, str]]]:
            return lambda history: [(f"/jobs?limit={PAGE}{history.cursor(number)}", HEAVY_USER)]

        def last_page(history: _History) -> list[tuple[str, str]]:
            return page(history.last_page)(history)

        def balance(_: _History) -> list[tuple[str, str]]:
            return [("/me", HEAVY_USER)]

        runs: dict[str, Callable[[_History], Run]] = {
            "poll": lambda history: history.called(polls),
            "history_first_page": lambda history: history.called(page(0)),
            "history_page_1000": lambda history: history.called(last_page),
            "balance": lambda history: history.called(balance),
            "admin_search": lambda history: history.searched(),
            "sweep": lambda history: history.swept(),
            "audit_each_job": lambda history: history.audited(),
            "submit": lambda history: history.submitted(),  # the last: it leaves work for the sweep
        }
        # The few are compared with themselves: an audit of the many takes twenty seconds.
        found = {name: compare(of(few), {"many": of(many)}, quick=world.quick) for name, of in runs.items()}
        offset = many.offset(many.last_page) / few.offset(few.last_page)
    lines = [_line(name, comparison, many.jobs) for name, comparison in found.items()]
    lines.append(Line("offset_page_1000", "the same page by OFFSET and count(*), as a peer", offset, None))
    return Measured(
        f"Slower with {many.jobs:,} jobs than with {few.jobs:,}",
        lines,
        raw={name: as_raw(comparison) for name, comparison in found.items()} | {"offset": offset},
        bars={f"ours, {name}": 1 / comparison.ratios["many"].median for name, comparison in found.items()}
        | {"OFFSET and count(*)": offset},
        unit="times",
    )


def _line(name: str, comparison: Comparison, jobs: int) -> Line:
    unit = "µs" if name == "audit_each_job" else "ms"
    what = f"{name.replace('_', ' ')}, {jobs:,} jobs"
    return Line(name, what, 1 / comparison.ratios["many"].median, MUST, f"{comparison.peers['many'].median:.1f} {unit}",
                f"{comparison.ours.median:.1f} {unit}")  # fmt: skip


def _p95(call: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return percentile(took, 0.95)
