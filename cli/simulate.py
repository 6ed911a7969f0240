"""`cuggu simulate`: random schedules of faults against the real use cases, replayable by seed."""

import json
import logging
import multiprocessing
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from cli.embedded import EmbeddedPostgres

PROCESSES = 2


@dataclass
class Tally:
    """What a share of the schedules came to."""

    schedules: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.faults += other.faults
        self.jobs += other.jobs
        self.violations += other.violations


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
    began = time.monotonic()
    total = Tally()
    with tempfile.TemporaryDirectory(prefix="cuggu-simulation-") as directory:
        Path(directory).chmod(0o711)  # the account that PostgreSQL runs as under root must get through
        with EmbeddedPostgres(Path(directory), durable=False) as postgres:
            seeds = range(seed, seed + schedules)
            count = min(PROCESSES, schedules)
            shares = [(postgres.url, f"simulation_{number}", list(seeds[number::count])) for number in range(count)]
            with multiprocessing.get_context("spawn").Pool(count) as pool:
                for share in pool.imap_unordered(_run_share, shares):
                    total.add(share)
            postgres.discard()
    _report(total, time.monotonic() - began, as_json=as_json)
    if total.violations:
        raise typer.Exit(1)


def _run_share(share: tuple[str, str, list[int]]) -> Tally:
    from sqlalchemy import create_engine, text  # noqa: PLC0415
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    from cli.simulation.checker import violations  # noqa: PLC0415
    from cli.simulation.clock import Clock  # noqa: PLC0415
    from cli.simulation.world import World  # noqa: PLC0415
    from migrations.run import upgrade  # noqa: PLC0415
    from shared.database import driver_url  # noqa: PLC0415
    from shared.settings import Settings  # noqa: PLC0415

    admin_url, name, seeds = share
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with create_engine(driver_url(admin_url), isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(admin_url).set(database=name).render_as_string(hide_password=False)
    upgrade(url)
    engine = create_engine(driver_url(url), pool_size=10)  # no checks of connections: nothing cuts them here
    Clock.install(engine)
    settings = Settings(_env_file=None, database_url=url, redis_url="redis://127.0.0.1:1/0")
    tally = Tally()
    for number in seeds:
        world = World(engine, settings, number)
        world.run()
        tally.schedules += 1
        tally.faults += world.dice.faults
        tally.violations += [{"seed": number, "violation": found} for found in violations(world)]
        with engine.connect() as connection:
            for status, count in connection.execute(text("SELECT status, count(*) FROM jobs GROUP BY 1")):
                tally.jobs[status] += count
    engine.dispose()
    return tally


def _report(total: Tally, seconds: float, *, as_json: bool) -> None:
    per_second = round(total.schedules / seconds, 2)
    if as_json:
        shown = {
            "schedules": total.schedules,
            "faults": dict(sorted(total.faults.items())),
            "jobs": dict(sorted(total.jobs.items())),
            "violations": total.violations,
            "schedules_per_second": per_second,
        }
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{total.schedules} schedules in {seconds:.0f} s, {per_second} a second")
    typer.echo("jobs    " + ", ".join(f"{count} {status}" for status, count in sorted(total.jobs.items())))
    for fault, count in total.faults.most_common():
        typer.echo(f"{count:7}  {fault}")
    for found in total.violations[:50]:
        typer.echo(f"seed {found['seed']}: {found['violation']}", err=True)
    typer.echo(f"{len(total.violations)} broken promises")
