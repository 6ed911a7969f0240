"""P7: whether anything gets slower with the history: the same calls with a million jobs and with a thousand."""

import statistics
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from uuid import UUID

import httpx
import psycopg
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from bench.harness import (
    ROUNDS,
    Comparison,
    Line,
    Measured,
    Must,
    Round,
    RoundVoid,
    Run,
    Void,
    as_raw,
    compare_rounds,
    in_turns,
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
# A p95 swings by a tenth from turn to turn, be they short or long, with whatever else the machine does: many short
# turns tell more than few long ones.
TURNS = 21
SECONDS, SUBMIT_SECONDS = 0.2, 0.5  # of a turn: 50 calls at the least, 20 submissions
WARMING = 3  # calls that begin a turn, slower after the other history's, and not counted
SWEEPS = 110  # 0.2 s
AUDITS_BETWEEN = 11  # odd, so that ours and ours again are the first after the many by turns
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
        return self._turn([get(self.stack.api_url, at, token(email)) for at, email in path(self)])

    def submitted(self) -> Run:
        request = post(self.stack.api_url, "/jobs", token("buyer@bench.example"), one_face())
        with psycopg.connect(self.database_url) as connection:
            connection.execute(
                "INSERT INTO users (id, email, credits) VALUES (gen_random_uuid(), 'buyer@bench.example', 100000)"
            )
        return self._turn([request], SUBMIT_SECONDS, 202)

    def searched(self) -> Run:
        """A user looked for by how the address begins, one that is found, by the page's cookie as staff do it."""
        settings = self.settings.model_copy(update={"jwt_secret": SecretStr(SECRET)})
        with Session(self.engine) as session, session.begin():
            staff.add(session, Actor.command("bench"), STAFF, settings)
        with httpx.Client(base_url=self.stack.api_url, trust_env=False) as http:
            signed_in = http.post("/session", headers={"Authorization": f"Bearer {token(STAFF)}"}).raise_for_status()
        cookie = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
        paths = [f"/admin/users?q=user{number}%40" for number in range(10, 20)]
        return self._turn([get(self.stack.api_url, path, Cookie=cookie) for path in paths])

    def swept(self) -> Run:
        sessions = sessionmaker(self.engine)
        queue = JobQueue(make_celery(self.settings), self.settings.redis_url)
        notes = ChangeNotes(self.settings.redis_url)
        return lambda: _p95(lambda: sweeper.sweep(sessions, queue, notes, self.settings), SWEEPS)

    def audited(self, on_check: Callable[[int, int], object]) -> float:
        """Seconds of an audit of the whole history, `on_check` among them."""
        began = time.perf_counter()
        with audit.snapshot(self.engine) as connection:
            findings = audit.prove_rows(connection, on_check)
        if not all(finding.proved for finding in findings):
            raise RoundVoid("the history offends against the promises")
        return time.perf_counter() - began

    def _turn(self, requests: Sequence[bytes], seconds: float = SECONDS, expected: int = 200) -> Run:
        def run() -> float:
            load = closed_loop(self.stack.api_url, requests, connections=1, seconds=seconds, expected=expected)
            if load.answers <= WARMING:
                raise RoundVoid(f"only {load.answers} answers in a turn of {seconds:g} s")
            return percentile(load.latencies_ms[WARMING:], 0.95)

        run()
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
            "admin_search": _History.searched,
            "sweep": _History.swept,
        }

        def compared(name: str, of: Callable[[_History], Run]) -> Comparison:
            return _comparison(name, in_turns(of(few), {"many": of(many)}), TURNS, world.quick)

        found = {name: compared(name, of) for name, of in runs.items()}
        # An audit of the many takes twenty seconds, and has no more rounds than it must.
        found["audit_each_job"] = _comparison("audit_each_job", _audits(few, many), ROUNDS, world.quick)
        # The last: it leaves work for the sweep.
        found["submit"] = compared("submit", _History.submitted)
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


def _audits(few: _History, many: _History) -> Round:
    """An audit of the many, and between its checks audits of the few, by turns ours and ours again; µs for each job.

    An audit reads the whole history, so its time is divided by the jobs in it. Before and after the many's twenty
    seconds the machine itself differs by a tenth.
    """

    def one_round() -> Mapping[str, float]:
        seconds: list[float] = []

        def between(_done: int, _of: int) -> None:
            seconds.extend(few.audited(lambda _done, _of: None) for _ in range(AUDITS_BETWEEN))

        whole = many.audited(between)
        each = {"ours": statistics.mean(seconds[::2]), "ours_again": statistics.mean(seconds[1::2])}
        return {name: 1e6 * mean / few.jobs for name, mean in each.items()} | {
            "many": 1e6 * (whole - sum(seconds)) / many.jobs
        }

    return one_round


def _comparison(name: str, one_round: Round, rounds: int, quick: bool) -> Comparison:
    """Raises Void with the call that it is about."""
    try:
        return compare_rounds(one_round, rounds=rounds, quick=quick)
    except Void as error:
        raise Void(f"{name}: {error}") from error


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
