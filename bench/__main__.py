"""`python -m bench`: every measure, one table, and the figures as JSON; `--only P1` for one of them."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import growth, idle, in_flight, overhead, poll, recovery, report, saturation, submit, waiters
from bench.charts import chart_path, draw
from bench.harness import Measured, Void, other_cores, pin, three_digits
from bench.world import World, world

MEASURES: Mapping[str, Callable[[World], Measured]] = {
    "P1": poll.measure,
    "P2": waiters.measure,
    "P3": submit.measure,
    "P4": in_flight.measure,
    "P5": saturation.measure,
    "P6": overhead.measure,
    "P7": growth.measure,
    "P8": recovery.measure,
    "P9": idle.measure,
}
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(MEASURES), help="this measure alone")
    parser.add_argument("--quick", action="store_true", help="short and rough, to try the harness; nothing is kept")
    wanted = parser.parse_args()
    console = Console(stderr=True)
    pin(os.getpid(), other_cores())
    measured, void = run([wanted.only] if wanted.only else list(MEASURES), console, quick=wanted.quick)
    Console(width=140).print(table(measured, void))
    failed = [line for found in measured.values() for line in found.lines if line.met is False]
    sys.exit(1 if failed or void else 0)


def run(names: list[str], console: Console, *, quick: bool) -> tuple[dict[str, Measured], dict[str, str]]:
    """What each measure found, kept as soon as it ended; and of those that are void, why."""
    measured: dict[str, Measured] = {}
    void: dict[str, str] = {}
    # Not below /tmp's own mode: under root PostgreSQL runs as another account.
    with tempfile.TemporaryDirectory(prefix="cuggu-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        with world(Path(directory), quick=quick) as servers:
            for name in names:
                began = time.monotonic()
                console.print(f"{name} ...")
                try:
                    measured[name] = MEASURES[name](servers)
                except Void as error:
                    void[name] = str(error)
                except Exception as error:  # noqa: BLE001 - the other measures are worth their half an hour
                    console.print_exception()
                    void[name] = f"{type(error).__name__}, see above"
                console.print(f"{name} took {time.monotonic() - began:.0f} s")
                if not quick:
                    keep({name: measured[name]} if name in measured else {}, {name} & void.keys())
    return measured, void


def table(measured: Mapping[str, Measured], void: Mapping[str, str]) -> Table:
    shown = Table("", "measure", "ours", "peer", "limit", "ratio", "must", "met")
    for name, found in measured.items():
        for line in found.lines:
            met = {None: "", True: "yes", False: "NO"}[line.met]
            shown.add_row(
                name, line.what, line.ours, line.peer, line.limit, three_digits(line.value), str(line.must or ""), met
            )
    for name, reason in void.items():
        shown.add_row(name, f"void: {reason}", "", "", "", "", "", "NO")
    return shown


def keep(measured: Mapping[str, Measured], void: Iterable[str] = ()) -> None:
    """The figures, beside those of measures that did not run now; everything that was seen; the charts.

    Of a void measure nothing is kept, of an earlier run neither.
    """
    RESULTS.mkdir(exist_ok=True)
    latest = RESULTS / "latest.json"
    figures = json.loads(latest.read_text()) if latest.exists() else {}
    for name in void:
        figures.pop(name, None)
        (RESULTS / f"{name}.json").unlink(missing_ok=True)
        chart_path(name).unlink(missing_ok=True)
    for name, found in measured.items():
        figures[name] = {line.key: round(line.value, 4) for line in found.lines}
        raw = {"title": found.title, "lines": [asdict(line) for line in found.lines], "seen": found.raw}
        (RESULTS / f"{name}.json").write_text(json.dumps(raw, indent=1, default=str) + "\n")
        draw(found, chart_path(name))
    latest.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    report.write(PAGE, RESULTS)


if __name__ == "__main__":
    main()
