"""`cuggu simulate`: it keeps every promise, its seeds replay, and its checker notices what is broken."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from cli.simulation.checker import violations
from cli.simulation.clock import Clock
from cli.simulation.world import World
from shared.database import driver_url
from shared.settings import Settings

SCHEDULES = 16


def simulate(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "simulate", "--json", *words],
        env=os.environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.timeout(300)
def test_no_promise_is_broken_and_a_seed_tells_the_same_story_again() -> None:
    shown = simulate("--seed", "1", "--schedules", str(SCHEDULES))
    assert shown["schedules"] == SCHEDULES
    assert shown["violations"] == []
    assert len(shown["faults"]) > 15, "hardly any kind of fault was tried"
    assert sum(shown["jobs"].values()) >= SCHEDULES
    assert shown["schedules_per_second"] > 0
    again = [simulate("--seed", "7", "--schedules", "1") for _ in range(2)]
    assert again[0]["faults"] == again[1]["faults"]
    assert again[0]["jobs"] == again[1]["jobs"]


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """One finished schedule. The randomness it replaced is put back when the test is over."""
    monkeypatch.setattr("os.urandom", os.urandom)
    monkeypatch.setattr("random._urandom", os.urandom)
    engine = create_engine(driver_url(database_url))
    Clock.install(engine)
    settings = Settings(_env_file=None, database_url=database_url, redis_url="redis://127.0.0.1:1/0")
    world = World(engine, settings, seed=3)
    world.dice.calm = True
    world.run()
    assert violations(world) == []
    return world


@pytest.mark.parametrize(
    ("promise", "defect"),
    [
        ("I1", "UPDATE users SET credits = credits + 1"),
        ("I2", "DELETE FROM ledger_entries WHERE kind = 'CHARGE'"),
        ("I3", "INSERT INTO job_events (job_id, name) SELECT id, 'job.failed' FROM jobs"),
        ("I4", "UPDATE attempts SET cost = 0"),
        ("I6", lambda world: world.storage.objects.clear()),
        ("I6", lambda world: world.storage.objects.update({"photos/x/0/y": b""})),
        ("I7", "UPDATE job_events SET name = 'photo.failed' WHERE name = 'photo.started'"),
        ("I5", "UPDATE jobs SET completed_at = completed_at + interval '1 hour'"),
    ],
)
def test_the_checker_notices(world: World, promise: str, defect: str | Callable[[World], None]) -> None:
    if isinstance(defect, str):
        with world.engine.begin() as connection:
            connection.execute(text(defect))
    else:
        defect(world)
    assert [found for found in violations(world) if found.startswith(promise)]
