"""P3: what a submission takes beside the sum of what it cannot do without, and what uploads do to those who poll."""

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from itertools import chain
from uuid import uuid4

import psycopg
from PIL import Image, ImageEnhance
from sqlalchemy.orm import Session

from api.azure_faces import AzureFaceChecker
from api.portrait import Portrait, read_portrait
from bench.faces import azure_face
from bench.harness import (
    Line,
    Measured,
    Must,
    Round,
    Run,
    as_raw,
    compare,
    compare_rounds,
    judged,
    percentile,
)
from bench.load import closed_loop, get, post
from bench.poll import CONNECTIONS as POLLERS
from bench.rows import some_jobs, write_history
from bench.world import SECRET, World, token
from shared import credits, jobs
from shared.database import make_engine
from shared.disk_storage import DiskStorage
from shared.settings import Settings
from tests.photos import one_face

PICTURES, QUICK_PICTURES = 12, 3
SIZE = (4000, 3000)  # 12 megapixels
FACE_SECONDS = 0.15  # an answer of Azure Face from the same continent
FACE = {"left": 800, "top": 300, "width": 400, "height": 400}
UPLOADS_AT_ONCE = 8
FEW_POLLERS = 4
# The p99 of a turn swings by an eighth beside uploads and by a twentieth without: ours and ours again have many turns.
TURNS, IDLE_TURNS, QUICK_TURNS = 14, 4, 1
TURN_SECONDS = 0.5
EDGE_SECONDS = 0.7  # uploads before the first poll and after the last
EMAIL = "buyer@bench.example"


def measure(world: World) -> Measured:
    """From the first byte sent to the last received, one submission after another, each with a call for its face."""
    pictures = _pictures(QUICK_PICTURES if world.quick else PICTURES)
    with ExitStack() as running:
        environment = {
            **world.servers(),
            **running.enter_context(azure_face(FACE, FACE_SECONDS)),
            "FACE_VERDICT_SECONDS": "1",
            "UPLOADS_PER_WINDOW": "100000",
            "SUBMISSIONS_PER_WINDOW": "100000",
        }
        write_history(environment["DATABASE_URL"], 1000)
        with psycopg.connect(environment["DATABASE_URL"]) as connection:
            connection.execute("INSERT INTO users (id, email, credits) VALUES (%s, %s, 1000000)", (uuid4(), EMAIL))
        stack = running.enter_context(world.ours(environment))
        folder = world.directory / "naive"
        folder.mkdir()
        naive = running.enter_context(
            world.peer("naive_submit", {**environment, "DATA_DIR": str(folder), "JWT_SECRET": SECRET})
        )
        parts = _Parts({**environment, "DATA_DIR": str(world.directory / "parts")}, naive.url)
        running.callback(parts.close)
        seen: dict[str, list[float]] = {"ours": [], "parts": [], "naive": []}

        def submitting(name: str, url: str) -> Run:
            def run() -> float:
                took = [_ms(url, "/jobs", picture) for picture in pictures]
                seen[name] += took
                return percentile(took, 0.5)

            run()
            seen[name].clear()
            return run

        def unavoidable() -> float:
            took = [parts.ms(picture) for picture in pictures]
            seen["parts"] += took
            return percentile(took, 0.5)

        comparison = compare(
            submitting("ours", stack.api_url),
            {"parts": unavoidable, "naive": submitting("naive", naive.url)},
            quick=world.quick,
        )
        per_second: list[float] = []
        # Uploads come from a process of their own: threads of this one would hold up its clock.
        uploader = running.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))

        def polling(pollers: int) -> Round:
            polls = _polls(stack.api_url, environment["DATABASE_URL"], pollers)
            turns = QUICK_TURNS if world.quick else TURNS
            return _beside_uploads(uploader, polls, turns, stack.api_url, pictures, per_second)

        polls = compare_rounds(polling(POLLERS), quick=world.quick)
        uploads = statistics.median(per_second)
        few = judged([polling(FEW_POLLERS)()])  # nothing must be met
    limit = percentile(seen["parts"], 0.5)
    p95 = percentile(seen["ours"], 0.95)
    return Measured(
        "A submission of 12 megapixels",
        [
            Line("p50", "submit, beside the sum of its unavoidable parts", comparison.ratios["parts"].median,
                 Must("<=", 1.15), f"{comparison.ours.median:.0f} ms", f"{comparison.peers['naive'].median:.0f} ms",
                 f"{limit:.0f} ms"),
            Line("p95", "the same, p95", p95 / limit, Must("<=", 1.5), f"{p95:.0f} ms",
                 f"{percentile(seen['naive'], 0.95):.0f} ms", f"{limit:.0f} ms"),
            Line("polls", f"p99 of {POLLERS} polls at once during {UPLOADS_AT_ONCE} uploads, beside idle",
                 polls.ratios["idle"].median, Must("<=", 2), f"{polls.ours.median:.1f} ms", "",
                 f"{polls.peers['idle'].median:.1f} ms"),
            Line("few_polls", f"the same, {FEW_POLLERS} polls at once", few.ratios["idle"].median, None,
                 f"{few.ours.median:.1f} ms", "", f"{few.peers['idle'].median:.1f} ms"),
            Line("uploads", f"uploads a second, beside {POLLERS} polls", uploads, None, f"{uploads:.0f}/s"),
        ],
        raw={"submit": as_raw(comparison), "polls": as_raw(polls), "few_polls": as_raw(few),
             "uploads_per_second": per_second, "parts_ms": parts.seen, "seen_ms": seen},
        bars={"ours": comparison.ours.median, "unavoidable": limit, "naive": comparison.peers["naive"].median},
        unit="milliseconds, median",
    )  # fmt: skip


class _Parts:
    """What no submission can do without, each measured alone: receive, one decode, face call, one put, one commit."""

    def __init__(self, environment: dict[str, str], receiver: str) -> None:
        self._settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
        self._engine = make_engine(self._settings.database_url, transaction_pooling=False)
        self._storage = DiskStorage(self._settings.data_dir / "objects")
        self._receiver = receiver
        self._loop = asyncio.Runner()
        self._checker = AzureFaceChecker(self._settings)  # keeps its connection, as ours does
        self.seen: dict[str, list[float]] = {"receive": [], "decode": [], "face": [], "put": [], "commit": []}

    def ms(self, picture: bytes) -> float:
        portrait: list[Portrait] = []
        settings = self._settings

        def decode() -> None:
            limits = {"max_pixels": settings.portrait_max_pixels, "longest_side_px": settings.portrait_longest_side_px}
            portrait.append(read_portrait(picture, **limits))

        portrait_id = uuid4()
        self.seen["receive"].append(_ms(self._receiver, "/receive", picture))
        steps: dict[str, Callable[[], object]] = {
            "decode": decode,
            "face": lambda: self._look(portrait[0]),
            "put": lambda: self._storage.put(jobs.portrait_key(portrait_id), portrait[0].jpeg, "image/jpeg"),
            "commit": self._commit,
        }
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            self.seen[name].append(1000 * (time.perf_counter() - began))
        return sum(took[-1] for took in self.seen.values())

    def _look(self, portrait: Portrait) -> None:
        self._loop.run(self._checker.check(portrait.jpeg, portrait.width, portrait.height))

    def close(self) -> None:
        self._loop.run(self._checker.close())
        self._loop.close()
        self._engine.dispose()

    def _commit(self) -> None:
        with Session(self._engine) as session, session.begin():
            user_id = credits.provision_user(session, EMAIL, 0)
            jobs.accept(session, jobs.NewJob(uuid4(), user_id, "CLASSIC", None, uuid4(), None, "", 480, False))


def _ms(url: str, path: str, picture: bytes) -> float:
    load = closed_loop(url, [post(url, path, token(EMAIL), picture)], connections=1, seconds=0, expected=202)
    return load.latencies_ms[0]


def _polls(url: str, database_url: str, pollers: int) -> Callable[[], Sequence[float]]:
    """The latencies of one turn, in ms."""
    requests = [get(url, f"/jobs/{job.id}", token(job.email)) for job in some_jobs(database_url, 10)]
    return lambda: closed_loop(url, requests, connections=pollers, seconds=TURN_SECONDS).latencies_ms


def _beside_uploads(
    uploader: Executor, polls: Callable[[], Sequence[float]], turns: int, url: str, pictures: Sequence[bytes],
    per_second: list[float],
) -> Round:  # fmt: skip
    """p99 of polls while uploads are under way, by turns ours and ours again, and then without them, as their peer.

    `per_second` hears how many uploads were answered.
    """
    requests = [post(url, "/jobs", token(EMAIL), picture) for picture in pictures]

    def one_round() -> Mapping[str, float]:
        uploader.submit(int).result()  # it has started
        seconds = EDGE_SECONDS + 2 * turns * TURN_SECONDS + EDGE_SECONDS
        uploads = uploader.submit(
            closed_loop, url, requests, connections=UPLOADS_AT_ONCE, seconds=seconds, expected=202
        )
        time.sleep(EDGE_SECONDS)
        seen = [polls() for _ in range(2 * turns)]
        load = uploads.result()
        per_second.append(load.answers / load.seconds)
        latencies_ms = {"ours": seen[::2], "ours_again": seen[1::2], "idle": [polls() for _ in range(IDLE_TURNS)]}
        return {name: percentile(list(chain.from_iterable(ms)), 0.99) for name, ms in latencies_ms.items()}

    return one_round


def _pictures(wanted: int) -> list[bytes]:
    """Of one face each and all different, as a telephone makes them."""
    with Image.open(BytesIO(one_face())) as opened:
        large = opened.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    pictures = []
    for number in range(wanted):
        out = BytesIO()
        ImageEnhance.Brightness(large).enhance(1 + number / 100).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    return pictures
