"""What a storm came to: one table for people, one JSON file for programs."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.aftermath import Judgement
from tests.chaos.storm import Course

STATUSES = ("COMPLETED", "PARTIAL", "FAILED", "CANCELED")
BAD = ("lost", "stuck", "paid_twice", "credits_wrong")


def summary(name: str, courses: Sequence[Course], judgement: Judgement, seconds: float) -> dict[str, Any]:
    """All figures, as they are written to the file."""
    struck = Counter(one.fault.kind for course in courses for one in course.struck)
    missed = Counter(fault.kind for course in courses for fault in course.missed)
    seeds = {course.couple.email: course.schedule.seed for course in courses}
    recovered = sorted(judgement.recovery.values())
    return {
        "system": name,
        "first_seed": courses[0].schedule.seed,
        "schedules": len(courses),
        "faults": dict(sorted(struck.items())),
        "faults_without_target": dict(sorted(missed.items())),
        "accepted": judgement.accepted,
        "jobs": {status: judgement.jobs.get(status, 0) for status in STATUSES},
        **{column: getattr(judgement, column) for column in BAD},
        "untold": judgement.untold,
        "unknowable": judgement.unknowable,
        "recovery": {
            "schedules": len(recovered),
            "median_seconds": round(statistics.median(recovered), 1) if recovered else None,
            "worst_seconds": round(recovered[-1], 1) if recovered else None,
            "worst_seed": max(judgement.recovery, key=judgement.recovery.__getitem__) if recovered else None,
        },
        "violations": [
            {"seed": seeds.get(violation.email), "promise": violation.promise, "about": violation.about,
             "says": violation.says}
            for violation in judgement.violations
        ],
        "seconds": round(seconds, 1),
    }  # fmt: skip


def write(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def show(figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    recovery = figures["recovery"]
    table.add_row("schedules", f"{figures['schedules']:,}")
    table.add_row("faults", f"{sum(figures['faults'].values()):,}")
    for kind, count in sorted(figures["faults"].items(), key=lambda item: (-item[1], item[0])):
        table.add_row(f"  {kind}", f"{count:,}")
    table.add_row("jobs accepted", f"{figures['accepted']:,}")
    for status, count in figures["jobs"].items():
        table.add_row(f"  {status}", f"{count:,}")
    for column in BAD:
        table.add_row(column.replace("_", " "), f"{figures[column]:,}")
    table.add_row("charged, and nobody told", f"{figures['untold']:,}")
    table.add_row("paid twice, unknowably", f"{figures['unknowable']:,}")
    for which in ("median", "worst"):
        seconds = recovery[f"{which}_seconds"]
        table.add_row(f"recovery, {which}", "-" if seconds is None else f"{seconds:.1f} s")
    table.add_row("it took", f"{figures['seconds']:.0f} s")
    console = Console(highlight=False)
    console.print(table)
    for violation in figures["violations"][:50]:
        seed = "" if violation["seed"] is None else f"seed {violation['seed']}: "
        console.print(f"{seed}{violation['promise']} {violation['about']}: {violation['says']}", markup=False)
