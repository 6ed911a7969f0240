"""How many clients can one API process let wait, what do they cost, and how soon do they hear of a change?

A real API process with PostgreSQL and Valkey, and many clients in this process, each with a connection of its own on
the events of a job of its own. Measured are the memory of the API process (PSS), its processor time while nothing
happens but pings, and the time from a photo's commit to its client, while changes come steadily and then all at once.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from api.auth import development_token
from bench.harness import other_cores, pin, server_cores
from bench.load import closed_loop, get
from cli.processes import free_port
from cli.stack import Stack
from shared import leases, photos
from shared.attempts import AttemptEnd
from shared.change_notes import ChangeNotes
from shared.database import make_engine
from shared.photos import StoredFile
from shared.settings import Settings
from shared.states import AttemptOutcome, PhotoStatus

EMAIL = "waiting@example.com"
CONNECTING_AT_ONCE = 100
STEADY_CHANGES_PER_SECOND = 40
SETTLING_SECONDS = 3.0
POLL_EVERY_SECONDS = 2.0
POLLING_CLIENTS = 2_000  # a third of a core: more of them would wait for each other, and cost less each
POLLING_SECONDS, CONNECTED_SECONDS = 13.0, 6.0  # the first is long enough for the second, and polls besides

_JOBS = """
WITH owner AS (INSERT INTO users (id, email) VALUES (gen_random_uuid(), :email) RETURNING id),
made AS (
    INSERT INTO jobs (id, user_id, style, portrait_id, request_fingerprint, deadline_at)
    SELECT gen_random_uuid(), owner.id, 'CLASSIC', gen_random_uuid(), '', cuggu_now() + interval '1 day'
    FROM owner, generate_series(1, :count) RETURNING id
),
slots AS (
    INSERT INTO photos (id, job_id, slot)
    SELECT gen_random_uuid(), made.id, slot FROM made, generate_series(0, 3) AS slot
)
INSERT INTO job_events (job_id, name) SELECT id, 'job.accepted' FROM made RETURNING job_id
"""
_SLOT = text("SELECT id FROM photos WHERE job_id = :job_id AND slot = :slot")


class Waiting(asyncio.Protocol):
    """One client. `heard` are the moments at which a photo of its job was said to be stored."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.begun = asyncio.get_running_loop().create_future()
        self.heard: list[float] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if b"event: photo.stored" in data:
            self.heard.append(time.monotonic())
        if b"event: job.accepted" in data and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionError("the API closed the connection"))


class Writer:
    """Does what a worker does to store photos, and notes when each was committed."""

    def __init__(self, engine: Engine, notes: ChangeNotes) -> None:
        self._engine = engine
        self._notes = notes
        self.committed: dict[UUID, float] = {}

    def store(self, job_id: UUID, slot: int) -> None:
        with Session(self._engine) as session, session.begin():
            claim = leases.claim(session, session.scalars(_SLOT, {"job_id": job_id, "slot": slot}).one(),
                                 PhotoStatus.PENDING, 60)  # fmt: skip
            assert claim is not None
            attempt = photos.open_attempt(session, claim, "preview", "preview")
            file = StoredFile(photos.photo_key(claim, attempt), 900, 1200, 1000, "0" * 64)
            photos.store(session, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), file)
        self.committed[job_id] = time.monotonic()
        self._notes.tell(job_id)

    def store_steadily(self, job_ids: Sequence[UUID]) -> None:
        began = time.monotonic()
        for number, job_id in enumerate(job_ids):
            time.sleep(max(0.0, began + number / STEADY_CHANGES_PER_SECOND - time.monotonic()))
            self.store(job_id, 0)

    def store_at_once(self, job_ids: Sequence[UUID], slot: int, threads: int = 4) -> None:
        def some(start: int) -> None:
            for job_id in job_ids[start::threads]:
                self.store(job_id, slot)

        running = [threading.Thread(target=some, args=(start,)) for start in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()


@dataclass
class Api:
    process: psutil.Process

    def pss_mb(self) -> float:
        return float(self.process.memory_full_info().pss) / 1e6

    def cpu_seconds(self) -> float:
        """By the process's own clock. psutil's has ticks of 10 ms, and all who wait take a dozen in half a minute."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # as clock_getcpuclockid(3) has it on Linux


@contextmanager
def only_an_api(data_dir: Path) -> Iterator[Stack]:
    data_dir.mkdir()
    stack = Stack(data_dir, environment={"LOG_LEVEL": "WARNING"}, processes=("api",), port=free_port(), durable=False)
    with chdir(data_dir):  # where no developer's .env is read
        stack.start()
    try:
        stack.wait_ready()
        pin(stack.pid("api"), server_cores())
        yield stack
    finally:
        stack.stop()


async def measure(stack: Stack, clients: int, idle_seconds: float, changes: int) -> dict[str, float]:
    settings = Settings(_env_file=None, database_url=stack.environment["DATABASE_URL"],
                        redis_url=stack.environment["REDIS_URL"])  # fmt: skip
    engine = make_engine(settings.database_url, transaction_pooling=False, pool_size=8)
    with engine.begin() as connection:
        job_ids = list(connection.execute(text(_JOBS), {"email": EMAIL, "count": clients}).scalars())
    api = Api(psutil.Process(stack.pid("api")))
    figures: dict[str, float] = {"clients": clients, "pss_mb_alone": api.pss_mb()}
    figures["alone_cpu_percent"] = await idle_cpu_percent(api, idle_seconds)

    began, cpu = time.monotonic(), api.cpu_seconds()
    waiting = await connect_all(stack.api_url, settings, job_ids)
    figures["connect_seconds"] = time.monotonic() - began
    figures["connect_cpu_ms_each"] = 1000 * (api.cpu_seconds() - cpu) / clients
    await asyncio.sleep(SETTLING_SECONDS)

    figures["idle_cpu_percent"] = await idle_cpu_percent(api, idle_seconds)
    figures["pss_mb"] = api.pss_mb()
    figures["kb_each"] = 1000 * (figures["pss_mb"] - figures["pss_mb_alone"]) / clients

    writer = Writer(engine, ChangeNotes(settings.redis_url))
    chosen = job_ids[:: max(1, clients // changes)][:changes]
    await asyncio.to_thread(writer.store_steadily, chosen)
    figures |= await latencies("steady", chosen, waiting, writer, 1)
    began = time.monotonic()
    await asyncio.to_thread(writer.store_at_once, chosen, 1)
    figures["burst_changes_per_second"] = len(chosen) / (time.monotonic() - began)
    figures |= await latencies("burst", chosen, waiting, writer, 2)
    figures["pss_mb_after"] = api.pss_mb()
    figures["lost"] = sum(client.lost for client in waiting.values())
    engine.dispose()
    for client in waiting.values():
        client.transport.abort()
    return figures


async def idle_cpu_percent(api: Api, seconds: float) -> float:
    began, cpu = time.monotonic(), api.cpu_seconds()
    await asyncio.sleep(seconds)
    return 100 * (api.cpu_seconds() - cpu) / (time.monotonic() - began)


async def connect_all(url: str, settings: Settings, job_ids: Sequence[UUID]) -> dict[UUID, Waiting]:
    address, token = urlsplit(url), development_token(settings, EMAIL)
    turn = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def connect(job_id: UUID) -> Waiting:
        request = (
            f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        async with turn:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Waiting(request.encode()), address.hostname, address.port
            )
            async with asyncio.timeout(30):
                await client.begun
        return client

    return dict(zip(job_ids, await asyncio.gather(*map(connect, job_ids)), strict=True))


async def latencies(
    name: str, job_ids: Sequence[UUID], waiting: dict[UUID, Waiting], writer: Writer, nth: int
) -> dict[str, float]:
    """In milliseconds, from the commit to the client's own reading of it."""
    deadline = time.monotonic() + 30
    while any(len(waiting[job_id].heard) < nth for job_id in job_ids):
        if time.monotonic() > deadline:
            raise TimeoutError("a change did not reach its client within 30 s")
        await asyncio.sleep(0.05)
    took = sorted(1000 * (waiting[job_id].heard[nth - 1] - writer.committed[job_id]) for job_id in job_ids)
    return {
        f"{name}_changes": len(took),
        f"{name}_p50_ms": took[len(took) // 2],
        f"{name}_p95_ms": took[int(len(took) * 0.95)],
        f"{name}_max_ms": took[-1],
    }


ROWS = {
    "clients": "clients waiting, one job each",
    "pss_mb_alone": "API process alone: PSS, MB",
    "pss_mb": "with all clients waiting: PSS, MB",
    "kb_each": "one more client: kB",
    "alone_cpu_percent": "processor while nobody waits, % of one core",
    "idle_cpu_percent": "with all clients waiting and nothing happening, % of one core",
    "connect_cpu_ms_each": "processor to sign in and begin, ms a client",
    "steady_p50_ms": f"commit to client, {STEADY_CHANGES_PER_SECOND} changes a second: p50, ms",
    "steady_p95_ms": "p95, ms",
    "steady_max_ms": "slowest, ms",
    "burst_changes_per_second": "changes as quickly as four threads commit them: a second",
    "burst_p50_ms": "commit to client: p50, ms",
    "burst_p95_ms": "p95, ms",
    "burst_max_ms": "slowest, ms",
    "lost": "connections lost",
    "paced_cpu_ms": f"processor for one poll of clients that poll every {POLL_EVERY_SECONDS:g} s instead, ms",
    "poll_cpu_ms": "processor for one poll of 16 at once, ms",
}


def figures_of(clients: int, idle_seconds: float, changes: int) -> dict[str, float]:
    """The figures, and beside them what it costs the same process if they poll instead."""
    with tempfile.TemporaryDirectory(prefix="cuggu-bench-") as directory:
        Path(directory).chmod(0o711)  # not below /tmp's own mode: under root PostgreSQL runs as another account
        with only_an_api(Path(directory) / "data") as stack:
            figures = asyncio.run(measure(stack, clients, idle_seconds, changes))
            return figures | polled(stack, min(clients, POLLING_CLIENTS))


def polled(stack: Stack, clients: int) -> dict[str, float]:
    """What it costs the same process if clients poll instead.

    First `clients` of them, each over a connection of its own at a pace of its own. Of two runs that begin alike the
    longer takes as much more as polling costs, without what connecting does. Then a few that never pause: whatever
    comes together is answered together, so no poll is cheaper than theirs.
    """
    settings = Settings(
        _env_file=None, **{name.lower(): stack.environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
    )
    engine = make_engine(settings.database_url, transaction_pooling=False)
    with engine.connect() as connection:
        job_ids = connection.scalars(text("SELECT id FROM jobs")).all()
    engine.dispose()
    bearer = development_token(settings, EMAIL)
    requests = [get(stack.api_url, f"/jobs/{job_id}", bearer) for job_id in job_ids]
    api = Api(psutil.Process(stack.pid("api")))

    def cpu_seconds(seconds: float) -> float:
        before = api.cpu_seconds()
        closed_loop(stack.api_url, requests, connections=clients, seconds=seconds, every_seconds=POLL_EVERY_SECONDS)
        return api.cpu_seconds() - before

    connected = cpu_seconds(CONNECTED_SECONDS)
    paced = (cpu_seconds(POLLING_SECONDS) - connected) / (POLLING_SECONDS - CONNECTED_SECONDS)
    few = requests[:100]
    closed_loop(stack.api_url, few, connections=16, seconds=1)
    before = api.cpu_seconds()
    load = closed_loop(stack.api_url, few, connections=16, seconds=3)
    return {
        "paced_cpu_ms": 1000 * paced * POLL_EVERY_SECONDS / clients,
        "poll_cpu_ms": 1000 * (api.cpu_seconds() - before) / load.answers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=30)
    parser.add_argument("--changes", type=int, default=400)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    wanted = parser.parse_args()
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors < wanted.clients + 200:
        sys.exit(f"Only {descriptors} file descriptors are allowed (ulimit -Hn): take fewer --clients.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    pin(os.getpid(), other_cores())
    figures = figures_of(wanted.clients, wanted.idle_seconds, wanted.changes)
    table = Table("what", "measured")
    for name, told in ROWS.items():
        table.add_row(told, f"{figures[name]:,.1f}".removesuffix(".0"))
    Console(stderr=True).print(table)
    figures = {name: round(value, 2) for name, value in figures.items()}
    if wanted.json:
        wanted.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
