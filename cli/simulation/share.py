"""One of the processes that share the schedules: each runs its own one after the other, in a database of its own."""

import gc
import logging
import os
import sys
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import structlog
from sqlalchemy import Engine

from cli.simulation.checker import paid_twice_unknowably, violations
from cli.simulation.clock import Clock
from cli.simulation.database import DatabaseAway, create_database, rows, simulation_engine
from cli.simulation.world import World
from shared import photo_file
from shared.errors import StorageUnavailable
from shared.settings import Settings
from worker import generation


@dataclass
class Tally:
    """What some schedules came to."""

    schedules: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    paid_twice_unknowably: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.faults += other.faults
        self.jobs += other.jobs
        self.paid_twice_unknowably += other.paid_twice_unknowably
        self.violations += other.violations


_opened: list["_Share"] = []  # of this process


def open_share(admin_url: str) -> None:
    """Make this process, which is good for nothing else afterwards, ready to run schedules."""
    # Every schedule stores the same few pictures: each is prepared once.
    generation.prepare_photo = cache(photo_file.prepare_photo)  # type: ignore[attr-defined]
    gc.freeze()
    gc.set_threshold(50_000)
    errors = _Errors()
    structlog.configure(processors=[errors], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    url = create_database(admin_url, f"simulation_{os.getpid()}")
    engine = simulation_engine(url)
    _opened.append(_Share(engine, Clock(engine), simulation_settings(url), errors))


def run_schedules(seeds: range) -> Tally:
    total = Tally()
    for seed in seeds:
        total.add(_opened[-1].run(seed))
    return total


def simulation_settings(url: str) -> Settings:
    """As in production, but for what would only make schedules long: hanging predictions, and looks at them."""
    return Settings(
        _env_file=None,
        database_url=url,
        redis_url="redis://127.0.0.1:1/0",
        check_interval_seconds=6.0,
        job_deadline_seconds=150,
    )


class _Errors:
    """Keeps the exceptions that the product caught and logged, unless they were faults of the simulation's."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def __call__(self, _logger: Any, _level: str, event: MutableMapping[str, Any]) -> str:
        error = sys.exc_info()[1]
        if event.get("exc_info") and not isinstance(error, DatabaseAway | StorageUnavailable):
            self._seen.append(f"an error was logged: {event['event']}: {error!r}")
        raise structlog.DropEvent

    def take(self) -> list[str]:
        seen, self._seen = self._seen, []
        return seen


@dataclass(frozen=True, slots=True)
class _Share:
    engine: Engine
    clock: Clock
    settings: Settings
    errors: _Errors

    def run(self, seed: int) -> Tally:
        world = World(self.engine, self.clock, self.settings, seed)
        world.run()
        found = [*violations(world), *self.errors.take()]
        return Tally(
            schedules=1,
            faults=world.dice.faults,
            jobs=Counter(dict(rows(self.engine, "SELECT status, count(*) FROM jobs GROUP BY status"))),
            paid_twice_unknowably=paid_twice_unknowably(world),
            violations=[{"seed": seed, "violation": sentence} for sentence in found],
        )
