"""`make mutants`: plant each defect of the catalogue in a copy of the tree, and see that its check notices.

`python -m tests.mutants [NAME...]`: all, or those in whose name one of these stands. A check has noticed when it ran
and said no; one that could not even be collected, or whose world broke down before it began, proves nothing. Before
any defect is planted every check must pass. Exit status 1 if a check does not pass then, or a defect is not caught.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import psutil

from tests.mutants.catalogue import MUTANTS, SIMULATION, Mutant

PROJECT = Path(__file__).parents[2]
LANES = 2
CHECK_SECONDS = 300
SCHEDULES = (8, 40)
NOT_COPIED = (".git", ".venv", ".cuggu", "__pycache__", ".*_cache", "*.egg-info")
# A defect that does these was badly planted: what is tested is the check, not whether Python reads the file.
BROKEN = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "NameError", "UnboundLocalError")


class Outcome(StrEnum):
    PASSED = "not caught"  # every check passed
    FAILED = "caught"
    BROKEN = "broken"  # nothing was proved


@dataclass(frozen=True)
class Verdict:
    """`says` names the test that failed or the promises that were broken; or why nothing was proved."""

    outcome: Outcome
    says: str
    seconds: float = 0.0


class Tree:
    """A copy of the project, in which one defect at a time is planted."""

    _times = count(1_000_000_000)

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns(*NOT_COPIED))

    def catches(self, mutant: Mutant) -> Verdict:
        """Plant the defect, run its check, and take the defect back."""
        sound = (self.root / mutant.file).read_text()
        if sound.count(mutant.old) != 1:
            return Verdict(Outcome.BROKEN, f"its old text stands {sound.count(mutant.old)} times in {mutant.file}")
        self._write(mutant.file, sound.replace(mutant.old, mutant.new))
        try:
            return self.check([mutant.caught_by])
        finally:
            self._write(mutant.file, sound)

    def check(self, checks: Sequence[str]) -> Verdict:
        """What the simulation (alone) or these tests say about the tree as it is."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            if checks == [SIMULATION]:
                outcome, says = self._simulate()
            else:
                report = Path(directory) / "report.xml"
                options = ["-q", "-x", "-p", "no:cacheprovider", f"--timeout={CHECK_SECONDS // 2}"]
                status, output = self._run([*options, f"--junitxml={report}", *checks], "pytest")
                outcome, says = _read_tests(status, output, report)
        return Verdict(outcome, says, time.monotonic() - began)

    def _simulate(self) -> tuple[Outcome, str]:
        """First a few schedules: most defects break a promise in one of them."""
        outcome, says = Outcome.PASSED, ""
        for schedules in SCHEDULES:
            if outcome is Outcome.PASSED:
                words = ["simulate", "--json", "--seed", "1", "--schedules", str(schedules)]
                outcome, says = _read_simulation(*self._run(words, "cli.main"))
        return outcome, says

    def _run(self, words: Sequence[str], module: str) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            for hanging in [*psutil.Process(process.pid).children(recursive=True), process]:
                hanging.kill()
            process.communicate()
            return -1, f"it did not end within {CHECK_SECONDS} s"
        return process.returncode, output

    def _write(self, file: str, text: str) -> None:
        path = self.root / file
        path.write_text(text)
        # Python takes a compiled file for fresh when its source's size and second are the same.
        moment = next(self._times)
        os.utime(path, (moment, moment))


def _read_simulation(status: int, output: str) -> tuple[Outcome, str]:
    try:
        violations = json.loads(output.splitlines()[-1])["violations"]
    except (ValueError, LookupError, TypeError):
        return Outcome.BROKEN, f"the simulation broke down with status {status}: {_last_line(output)}"
    if not violations:
        return Outcome.PASSED, "no promise was broken"
    promises = sorted({found["violation"].split(":")[0] for found in violations})
    seeds = len({found["seed"] for found in violations})
    return Outcome.FAILED, f"{', '.join(promises)} broken by {seeds} schedules"


def _read_tests(status: int, output: str, report: Path) -> tuple[Outcome, str]:
    if status == 0:
        return Outcome.PASSED, "every test passed"
    if status != 1 or not report.exists():
        return Outcome.BROKEN, f"pytest broke down with status {status}: {_last_line(output)}"
    for test in ElementTree.parse(report).iter("testcase"):
        failure = test.find("failure")  # of the test itself: what breaks in a fixture is an `error`
        if failure is not None:
            says = failure.get("message", "")
            if says.startswith(BROKEN):
                return Outcome.BROKEN, f"{test.get('name')} broke down: {says}"
            return Outcome.FAILED, str(test.get("name"))
    return Outcome.BROKEN, f"no test failed by itself: {_last_line(output)}"


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["it said nothing"])[-1][:300]


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    tests = sorted({mutant.caught_by for mutant in chosen} - {SIMULATION})
    simulated = any(mutant.caught_by == SIMULATION for mutant in chosen)
    with tempfile.TemporaryDirectory(prefix="cuggu-mutants-") as directory, ThreadPoolExecutor(LANES) as lanes:
        Path(directory).chmod(0o711)  # PostgreSQL's account under root must get through
        trees: SimpleQueue[Tree] = SimpleQueue()
        for lane in range(LANES):
            trees.put(Tree(Path(directory) / str(lane)))

        def in_a_lane(act: Callable[[Tree], Verdict]) -> Verdict:
            tree = trees.get()
            try:
                return act(tree)
            finally:
                trees.put(tree)

        print("without a defect")
        checks = [[SIMULATION]] * simulated + [tests] * bool(tests)
        for verdict in lanes.map(lambda check: in_a_lane(lambda tree: tree.check(check)), checks):
            print(f"  {verdict.seconds:5.1f} s  {verdict.says}", flush=True)
            if verdict.outcome is not Outcome.PASSED:
                return 1
        caught = 0
        verdicts = lanes.map(lambda mutant: in_a_lane(lambda tree: tree.catches(mutant)), chosen)
        for mutant, verdict in zip(chosen, verdicts, strict=True):
            caught += verdict.outcome is Outcome.FAILED
            print(
                f"{verdict.outcome:10} {verdict.seconds:5.1f} s  {mutant.breaks:3}  {mutant.name}: {verdict.says}",
                flush=True,
            )
    print(f"{caught} of {len(chosen)} caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
