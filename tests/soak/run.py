"""`python -m tests.soak`: a steady load for some minutes, one table, one file, and a status that says if all held."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from tests.chaos.aftermath import claims_of, judge_books
from tests.chaos.checker import Row, Violation
from tests.chaos.couples import Couple
from tests.chaos.run import QUICK_RESTART, THREADS
from tests.chaos.storm import LOOK_SECONDS, Struck
from tests.chaos.systems import Cuggu, End
from tests.chaos.world import World, running_world
from tests.photos import one_face
from tests.soak import report, weather
from tests.soak.load import Followers, couple_of, followers
from tests.soak.samples import Samples

CEILING_PER_MINUTE = 600  # creates, by the provider's published limit
PHOTOS_PER_JOB = 4
LOAD = 0.8
# As the default model's, and all that is decided by us as in production.
PREDICTION = ("--start-seconds", "1", "--predict-seconds", "8", "--predict-spread", "0.3",
              "--webhook-late-seconds", "8")  # fmt: skip
LEASE_SECONDS = 15.0  # the default: a process is stopped for longer
SAMPLE_SECONDS = 5.0
TICK_SECONDS = 0.05
PATIENCE_SECONDS = 300.0  # after the last order and fault
PHOTOS_DECODED = 500


class SoakedCuggu(Cuggu):
    """Every setting as in production, but that nobody is told off for ordering, and that every portrait is judged."""

    def __init__(self) -> None:
        super().__init__(None)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FACE_VERDICT_SECONDS": "1"}


class Soak:
    """One soak over a running world. Use it from the main thread."""

    def __init__(self, world: World, threads: ThreadPoolExecutor, following: Followers, minutes: float, seed: int,
                 jobs_per_minute: float) -> None:  # fmt: skip
        self.seconds = minutes * 60
        self.couples: list[Couple] = []
        self.struck: list[Struck] = []
        self.ends: dict[UUID, End] = {}
        self.samples = Samples()
        self.began = time.time()
        self._world, self._threads, self._following, self._seed = world, threads, following, seed
        self._pause = 60 / jobs_per_minute
        self._to_come = weather.draw(seed, self.seconds, LEASE_SECONDS)
        self._unaccepted: list[Couple] = []
        self._in_work: set[UUID] = set()
        self._looked_at = self._sampled_at = 0.0

    @property
    def age(self) -> float:
        return time.time() - self.began

    @property
    def accepted(self) -> int:
        return len(self.ends) + len(self._in_work)

    @property
    def waiting(self) -> int:
        return len(self._unaccepted) + len(self._in_work)

    def go(self, tell: Callable[["Soak"], None]) -> None:
        """All of it, until every job has ended or the patience is over."""
        while self.age < self.seconds:
            while len(self.couples) * self._pause <= self.age:
                self._order()
            self._step(tell)
        quiet_since = time.time()
        while (self.waiting or self._lasting()) and time.time() - quiet_since < PATIENCE_SECONDS:
            self._step(tell)
        for couple in self.couples:
            couple.raise_for_defects()
            couple.close()

    def tend_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Go on looking after the world until the condition holds; whether it did in time."""
        deadline = time.monotonic() + seconds
        while not (held := condition()) and time.monotonic() < deadline:
            self._world.tend()
            time.sleep(LOOK_SECONDS)
        return held

    def stuck(self) -> list[Violation]:
        return [Violation("stuck", str(job_id), "it did not end in time") for job_id in self._in_work]

    def _order(self) -> None:
        couple = Couple(couple_of(self._seed, len(self.couples)), self._world.door, one_face(), self._threads)
        couple.begin()
        self.couples.append(couple)
        self._unaccepted.append(couple)

    def _step(self, tell: Callable[["Soak"], None]) -> None:
        self._world.tend()
        self._weather()
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._look()
            tell(self)
        if time.monotonic() - self._sampled_at > SAMPLE_SECONDS:
            self._sampled_at = time.monotonic()
            self.samples.take(self._world)
        time.sleep(TICK_SECONDS)

    def _weather(self) -> None:
        while self._to_come and self._to_come[0].after_seconds <= self.age and self.age < self.seconds:
            if not self._world.strike(self._to_come[0], substitute=False):
                break  # it is not there just now
            fault = self._to_come.pop(0)
            now = time.time()
            self.struck.append(Struck(fault, now, None if fault.seconds else now))
        for one in self.struck:
            if one.over_at is None and time.time() - one.at >= one.fault.seconds:
                self._world.lift(one.fault)
                one.over_at = time.time()

    def _lasting(self) -> bool:
        return any(one.over_at is None for one in self.struck)

    def _look(self) -> None:
        for couple in self._unaccepted[:]:
            if not couple.busy or couple.job_ids:
                self._unaccepted.remove(couple)
                for job_id in couple.job_ids:
                    self._in_work.add(job_id)
                    self._following.follow(job_id, self._world.door.headers(couple.email))
        try:
            ends = self._world.system.ends(self._world.database_url, list(self._in_work)) if self._in_work else {}
        except psycopg.OperationalError:
            return
        self.ends |= ends
        self._in_work -= ends.keys()


def soak(
    minutes: float, seed: int, data_dir: Path, *, share: float = LOAD, tell: Callable[[Soak], None]
) -> dict[str, Any]:
    """The figures of one soak. `data_dir` is new, and open to PostgreSQL's account."""
    with (
        running_world(SoakedCuggu(), data_dir, QUICK_RESTART, prediction=PREDICTION, durable=True) as world,
        ThreadPoolExecutor(THREADS) as threads,
        followers(world.stack.api_url) as following,
    ):
        one = Soak(world, threads, following, minutes, seed, share * CEILING_PER_MINUTE / PHOTOS_PER_JOB)
        one.go(tell)
        rows, predictions, verdict = judge_books(
            world, claims_of(one.couples), one.tend_until, photos_max=PHOTOS_DECODED
        )
        verdict.violations += one.stuck()
        return report.summary(one, rows, waits_of(world, one), throttled(world), verdict, predictions)


def waits_of(world: World, one: Soak) -> list[tuple[float, float]]:
    """Of each photo when its job was accepted and when it was first begun, in seconds from the soak's beginning; of one
    that was never begun, when its job ended."""
    with psycopg.connect(world.database_url) as server:
        rows = server.execute(
            "SELECT extract(epoch FROM j.created_at)::float8, "
            "extract(epoch FROM coalesce(min(e.at), j.completed_at, now()))::float8 "
            "FROM photos p JOIN jobs j ON j.id = p.job_id "
            "LEFT JOIN job_events e ON e.photo_id = p.id AND e.name = 'photo.started' GROUP BY p.id, j.id"
        ).fetchall()
    return [(accepted - one.began, started - one.began) for accepted, started in rows]


def throttled(world: World) -> list[Row]:
    """Requests that the provider refused because they were too many; not those that it refused as a fault."""
    answer = httpx.get(f"{world.vendors.replicate_url}/_books", params={"part": "refused"}, timeout=30, trust_env=False)
    refused: list[Row] = answer.raise_for_status().json()["refused"]
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, default=LOAD, help="the share of the provider's ceiling")
    parser.add_argument("--output", type=Path, default=Path(".cuggu/soak.json"))
    parser.add_argument("--keep", type=Path, help="keep all data and logs in this new directory")
    options = parser.parse_args()
    data_dir = options.keep or Path(tempfile.mkdtemp(prefix="cuggu-soak-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)  # the account that PostgreSQL runs as under root must get through
    try:
        with report.progress(options.minutes) as tell:
            figures = soak(options.minutes, options.seed, data_dir, share=options.load, tell=tell)
    finally:
        if options.keep is None:
            shutil.rmtree(data_dir, ignore_errors=True)
    report.write(options.output, figures)
    report.show(figures)
    if figures["broken"]:
        sys.exit(1)
