"""What a soak came to: a line while it runs, one table for people, one JSON file for programs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos import checker
from tests.chaos.checker import Row, Verdict
from tests.chaos.report import STATUSES, write
from tests.soak import figures as counted
from tests.soak.figures import GROWTH_MAX, HISTORY, LIFE_MIN_SECONDS, WARM_UP_SECONDS, Series, percentile

if TYPE_CHECKING:
    from tests.soak.run import Soak

__all__ = ["progress", "show", "summary", "write"]

MEGABYTE = 1024 * 1024
PROMISES = {"lost": ("lost",), "stuck": ("stuck",), "paid_twice": ("I4",), "credits_wrong": ("I1", "I2"),
            "untold": ("untold",)}  # fmt: skip
MEASURED = ("api", "worker", "beat")  # processes that live long enough


def summary(
    one: "Soak",
    rows: checker.Rows,
    waits: Sequence[tuple[float, float]],
    throttled: Sequence[Row],
    verdict: Verdict,
    predictions: Sequence[Row],
) -> dict[str, Any]:
    """All figures, as they are written to the file; `broken` says in sentences what did not hold."""
    ages = counted.queue_ages(waits, max(one.seconds, *(started for _, started in waits)))
    over = [(struck.over_at or struck.at) - one.began for struck in one.struck]
    recovery = counted.recoveries(over, ages)
    lives: dict[str, list[Series]] = {}
    for (name, _), series in one.samples.memory.items():
        lives.setdefault(name, []).append(series)
    memory = {name: _memory(series) for name, series in lives.items()}
    tables = {
        name: {
            "first_bytes": series[0][1],
            "last_bytes": series[-1][1],
            "largest_bytes": max(size for _, size in series),
            "history": name in HISTORY,
        }
        for name, series in sorted(one.samples.tables.items())
    }
    statuses = Counter(job["status"] for job in rows.jobs)
    durations = [end.at - created for end, created in _spans(one, rows)]
    made = {
        "minutes": round(one.seconds / 60, 2),
        "jobs_per_minute": round(len(one.couples) * 60 / one.seconds, 1),
        "accepted": one.accepted,
        "jobs": {status: statuses.get(status, 0) for status in STATUSES},
        "predictions": len(predictions),
        "faults": dict(sorted(Counter(struck.fault.kind for struck in one.struck).items())),
        **{name: verdict.count(*promises) for name, promises in PROMISES.items()},
        "unknowable": len(verdict.unknowable),
        "throttled": len(throttled),
        "seconds_to_the_end": {"median": percentile(durations, 0.5), "p95": percentile(durations, 0.95)},
        "queue_age_seconds": {
            "p95": percentile((age for _, age in ages), 0.95),
            "worst": max(age for _, age in ages),
        },
        "recovery_seconds": {"median": percentile(recovery, 0.5), "worst": max(recovery, default=None)},
        "memory": memory,
        "tables": tables,
        "redis_bytes": {"last": one.samples.redis[-1][1], "largest": max(size for _, size in one.samples.redis)},
        "violations": [
            {"promise": violation.promise, "about": violation.about, "says": violation.says}
            for violation in verdict.violations
        ],
        "samples": {
            "memory": {f"{name} {pid}": series for (name, pid), series in one.samples.memory.items()},
            "tables": one.samples.tables,
            "queue_age": ages[:: max(1, len(ages) // 1000)],
        },
    }
    made["broken"] = [*_broken(made), *(f"{name} grows" for name in counted.growing_tables(one.samples.tables))]
    return made


@contextmanager
def progress(minutes: float) -> Iterator[Callable[["Soak"], None]]:
    """A line that is kept up to date on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[says]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=minutes * 60, says="")

        def tell(one: "Soak") -> None:
            says = (
                f"{one.accepted:,} jobs accepted, {len(one.ends):,} ended, {one.waiting:,} waiting, "
                f"{len(one.struck):,} faults"
            )
            over = one.age > one.seconds
            bar.update(task, completed=one.age, description="ending" if over else "soaking", says=says)

        yield tell


def show(figures: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("jobs ordered a minute", f"{figures['jobs_per_minute']:g}, for {figures['minutes']:g} minutes")
    table.add_row("jobs accepted", f"{figures['accepted']:,}")
    for status, count in figures["jobs"].items():
        table.add_row(f"  {status}", f"{count:,}")
    table.add_row("predictions", f"{figures['predictions']:,}")
    table.add_row("faults", f"{sum(figures['faults'].values()):,}")
    for name in PROMISES:
        table.add_row(name.replace("_", " "), f"{figures[name]:,}")
    table.add_row("broken promises", f"{len(figures['violations']):,}")
    table.add_row("refused by the provider with 429", f"{figures['throttled']:,}")
    for title, key in (("a job, from order to end", "seconds_to_the_end"), ("queue age", "queue_age_seconds"),
                       ("recovery after a fault", "recovery_seconds")):  # fmt: skip
        for which, seconds in figures[key].items():
            table.add_row(f"{title}, {which}", "-" if seconds is None else f"{seconds:.1f} s")
    for name, about in figures["memory"].items():
        grown = about["growth_in_ten_minutes"]
        level = f"{about['first_bytes'] / MEGABYTE:.0f} to {about['last_bytes'] / MEGABYTE:.0f} MB"
        growth = "too short a life to tell" if grown is None else f"{grown:+.2%} in ten minutes"
        table.add_row(f"memory of {name}", f"{level}, {about['lives']} lives, {growth}")
    for name, about in figures["tables"].items():
        kind = "history" if about["history"] else f"at most {about['largest_bytes'] / MEGABYTE:.1f} MB"
        sizes = f"{about['first_bytes'] / MEGABYTE:.1f} to {about['last_bytes'] / MEGABYTE:.1f} MB"
        table.add_row(f"table {name}", f"{sizes}, {kind}")
    table.add_row("Redis", f"at most {figures['redis_bytes']['largest'] / MEGABYTE:.1f} MB")
    console = Console(width=max(120, Console().width), highlight=False)
    console.print(table)
    for violation in figures["violations"][:50]:
        console.print(f"{violation['promise']} {violation['about']}: {violation['says']}", markup=False)
    for sentence in figures["broken"]:
        console.print(f"BROKEN: {sentence}", markup=False)


def _broken(made: Mapping[str, Any]) -> Iterator[str]:
    if made["violations"]:
        yield f"{len(made['violations'])} promises were not kept"
    if made["throttled"]:
        yield f"the provider refused {made['throttled']} requests as too many"
    if made["accepted"] != sum(made["jobs"].values()):
        yield "not every accepted job has ended"
    for name in MEASURED:
        grown = made["memory"][name]["growth_in_ten_minutes"]
        if grown is not None and grown >= GROWTH_MAX:
            yield f"the memory of {name} grows by {grown:.2%} in ten minutes"
        elif grown is None and made["minutes"] * 60 > 3 * (WARM_UP_SECONDS + LIFE_MIN_SECONDS) / 2:
            yield f"no {name} lived long enough to measure its memory"


def _memory(lives: Sequence[Series]) -> dict[str, Any]:
    return {
        "lives": len(lives),
        "first_bytes": lives[0][0][1],
        "last_bytes": lives[-1][-1][1],
        "growth_in_ten_minutes": counted.growth(lives),
    }


def _spans(one: "Soak", rows: checker.Rows) -> Iterator[tuple[Any, float]]:
    accepted = {job_id: receipt.accepted_at for couple in one.couples for receipt in couple.receipts
                for job_id in receipt.job_ids}  # fmt: skip
    return ((end, accepted[job_id]) for job_id, end in one.ends.items())
