"""`cuggu simulate`: random schedules of faults against the real use cases, replayable by seed."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from cli.simulation.share import Tally

PROCESSES = 4  # twice as many as cores, because each waits for its database half of the time
PROGRESS_SECONDS = 15.0
SEEDS_AT_ONCE = 5


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    seed: Annotated[int, typer.Option(help="The first schedule's seed; the others count up from it.")] = 1,
    schedules: Annotated[int, typer.Option(min=1, help="How many schedules to run.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run random schedules of faults, and check every promise after each.

    The real use cases run over a real PostgreSQL with a virtual clock; provider, storage and messages are simulated,
    and are lost, late, doubled, refused, killed and stopped as the seed says. A violation names its seed:
    `cuggu simulate --seed THAT --schedules 1` plays it again. Exit status 1 if a promise was broken.
    """
    from cli.simulation.share import Tally  # noqa: PLC0415 - SQLAlchemy and more, for this command alone

    total = Tally()
    began = shown_at = time.monotonic()
    with _tallies(range(seed, seed + schedules)) as tallies:
        for tally in tallies:
            total.add(tally)
            if not as_json:
                for found in tally.violations:
                    typer.echo(f"seed {found['seed']}: {found['violation']}", err=True)
            now = time.monotonic()
            if not as_json and now - shown_at > PROGRESS_SECONDS:
                shown_at = now
                broken = f"{len(total.violations)} broken promises"
                typer.echo(f"{total.schedules} of {schedules} after {now - began:.0f} s, {broken}", err=True)
    _report(total, time.monotonic() - began, as_json=as_json)
    if total.violations:
        raise typer.Exit(1)


@contextmanager
def _tallies(seeds: range) -> "Iterator[Iterator[Tally]]":
    """Of some schedules each, as they end."""
    from cli.simulation.share import open_share, run_schedules  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(prefix="cuggu-simulation-") as directory:
        Path(directory).chmod(0o711)  # the account that PostgreSQL runs as under root must get through
        with EmbeddedPostgres(Path(directory), durable=False) as postgres:
            few = [seeds[at : at + SEEDS_AT_ONCE] for at in range(0, len(seeds), SEEDS_AT_ONCE)]
            spawn = multiprocessing.get_context("spawn")
            with spawn.Pool(min(PROCESSES, len(few)), open_share, [postgres.url]) as pool:
                yield pool.imap_unordered(run_schedules, few)
            postgres.discard()


def _report(total: "Tally", seconds: float, *, as_json: bool) -> None:
    per_second = round(total.schedules / seconds, 2)
    if as_json:
        shown = {
            "schedules": total.schedules,
            "faults": dict(sorted(total.faults.items())),
            "jobs": dict(sorted(total.jobs.items())),
            "paid_twice_unknowably": total.paid_twice_unknowably,
            "violations": total.violations,
            "schedules_per_second": per_second,
        }
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{total.schedules} schedules in {seconds:.0f} s, {per_second} a second")
    typer.echo("jobs    " + ", ".join(f"{count} {status}" for status, count in sorted(total.jobs.items())))
    for fault, count in total.faults.most_common():
        typer.echo(f"{count:7}  {fault}")
    typer.echo(f"{total.paid_twice_unknowably} photos paid for twice, where nobody could have known")
    typer.echo(f"{len(total.violations)} broken promises")
