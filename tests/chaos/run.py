"""`python -m tests.chaos`: schedules from a seed, one table, one file, and a status that says whether all held."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos import report
from tests.chaos.aftermath import Judgement, glance_at_cuggu, judge_cuggu
from tests.chaos.checker import Violation
from tests.chaos.plain_celery import PlainCelery, judge_plain_celery
from tests.chaos.schedules import Schedule, draw, draw_worker_kill
from tests.chaos.storm import Course, Storm
from tests.chaos.systems import Cuggu, System
from tests.chaos.world import World, running_world
from tests.photos import one_face

LEASE_SECONDS = 4.0
QUICK_RESTART = (0.2,)  # of a supervisor that knows that the process is not to blame
FIRST_RESTART = (0.5,)  # as `cuggu serve` does it with a process that has not died before
THREADS = 64  # of users, who mostly wait


@dataclass(frozen=True)
class Run:
    """One way to run chaos."""

    system: System
    judge: Callable[[World, Storm, Sequence[Course]], Judgement]
    draw: Callable[[int], Schedule]
    glance: Callable[[World], list[Violation]]
    restart_seconds: Sequence[float] = QUICK_RESTART
    wave: int = 10
    peace_seconds: float = 10.0
    patience_seconds: float = 200.0


_drawn = partial(draw, lease_seconds=LEASE_SECONDS)
RUNS = {
    "cuggu": Run(Cuggu(LEASE_SECONDS), judge_cuggu, _drawn, glance_at_cuggu),
    # Every setting as in production; one kill at a time, so that the recovery of each is its own.
    "defaults": Run(
        Cuggu(None),
        judge_cuggu,
        draw_worker_kill,
        glance_at_cuggu,
        FIRST_RESTART,
        wave=1,
        peace_seconds=600,
        patience_seconds=600,
    ),
    "plain_celery": Run(PlainCelery(), judge_plain_celery, _drawn, lambda _: [], patience_seconds=120.0),
}


def strike(
    name: str, schedules: int, seed: int, data_dir: Path, *, wave: int | None = None, loud: bool = False
) -> dict[str, Any]:
    """The figures of one of `RUNS`. `data_dir` is new, and open to PostgreSQL's account."""
    began, run = time.monotonic(), RUNS[name]

    def tell(sentence: str) -> None:
        if loud:
            print(f"{time.monotonic() - began:6.1f} s  {sentence}", file=sys.stderr, flush=True)

    with (
        running_world(run.system, data_dir, run.restart_seconds) as world,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        tell("everything runs")
        storm = Storm(
            world,
            threads,
            one_face(),
            wave=wave or run.wave,
            peace_seconds=run.peace_seconds,
            patience_seconds=run.patience_seconds,
            glance=run.glance,
            tell=tell,
        )
        courses = storm.rage(map(run.draw, range(seed, seed + schedules)))
        tell("the storm is over")
        judgement = run.judge(world, storm, courses)
        tell("judged")
    return report.summary(name, courses, judgement, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others count up from it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--defaults", dest="name", action="store_const", const="defaults",
                       help="killed workers alone, and every setting as in production")  # fmt: skip
    which.add_argument("--peer", dest="name", choices=["plain_celery"], help="the same schedules over this program")
    parser.add_argument("--wave", type=int, help="schedules that begin together, and share each other's blows")
    parser.add_argument(
        "--output", type=Path, help="the JSON file; .cuggu/chaos.json, or chaos-NAME.json of another run"
    )
    parser.add_argument("--keep", type=Path, help="keep all data and logs in this new directory")
    options = parser.parse_args()
    name = options.name or "cuggu"
    data_dir = options.keep or Path(tempfile.mkdtemp(prefix="cuggu-chaos-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)  # the account that PostgreSQL runs as under root must get through
    try:
        figures = strike(name, options.schedules, options.seed, data_dir, wave=options.wave, loud=True)
    finally:
        if options.keep is None:
            shutil.rmtree(data_dir, ignore_errors=True)
    report.write(options.output or Path(f".cuggu/chaos{'' if name == 'cuggu' else f'-{name}'}.json"), figures)
    report.show(figures)
    if figures["violations"]:
        print(f"Promises were broken. Again with --schedules {options.schedules} --seed {options.seed}")
        raise SystemExit(1)
