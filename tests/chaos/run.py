"""`python -m tests.chaos`: schedules from a seed, one table, one file, and a status that says whether all held."""

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.chaos import report
from tests.chaos.aftermath import judge_cuggu
from tests.chaos.schedules import draw_all
from tests.chaos.storm import Storm
from tests.chaos.systems import Cuggu
from tests.chaos.world import running_world
from tests.photos import one_face

LEASE_SECONDS = 4.0
WAVE = 5
PATIENCE_SECONDS = 90.0
THREADS = 64  # of users, who mostly wait


def run(schedules: int, seed: int, data_dir: Path, *, wave: int = WAVE, loud: bool = False) -> dict[str, Any]:
    """The figures of these schedules over our own system. `data_dir` is new, and open to PostgreSQL's account."""
    began = time.monotonic()
    drawn = list(draw_all(seed, schedules, LEASE_SECONDS))

    def tell(sentence: str) -> None:
        if loud:
            print(f"{time.monotonic() - began:6.1f} s  {sentence}", file=sys.stderr, flush=True)

    with running_world(Cuggu(LEASE_SECONDS), data_dir) as world, ThreadPoolExecutor(THREADS) as threads:
        tell("everything runs")
        storm = Storm(world, threads, one_face(), wave=wave, patience_seconds=PATIENCE_SECONDS, tell=tell)
        courses = storm.rage(drawn)
        tell("the storm is over")
        judgement = judge_cuggu(world, storm, courses)
        tell("judged")
    return report.summary("cuggu", courses, judgement, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others count up from it")
    parser.add_argument("--wave", type=int, default=WAVE, help="schedules that begin together")
    parser.add_argument("--output", type=Path, default=Path(".cuggu/chaos.json"))
    parser.add_argument("--keep", type=Path, help="keep all data and logs in this new directory")
    options = parser.parse_args()
    data_dir = options.keep or Path(tempfile.mkdtemp(prefix="cuggu-chaos-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)
    try:
        figures = run(options.schedules, options.seed, data_dir, wave=options.wave, loud=True)
    finally:
        if options.keep is None:
            shutil.rmtree(data_dir, ignore_errors=True)
    report.write(options.output, figures)
    report.show(figures)
    if figures["violations"]:
        print(f"Promises were broken; again with: make chaos SCHEDULES={options.schedules} SEED={options.seed}")
        raise SystemExit(1)
