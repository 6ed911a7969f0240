"""`cuggu simulate`: it keeps every promise, its seeds replay, and its checker notices what is broken."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from cli.simulation.checker import paid_twice_unknowably, violations
from cli.simulation.clock import Clock
from cli.simulation.database import rows, simulation_engine
from cli.simulation.dice import RATES
from cli.simulation.share import simulation_settings
from cli.simulation.world import World
from worker.predictor import PredictionState

SCHEDULES = 1000
STORMY = 5  # a seed whose schedule is full of faults


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_no_promise_is_broken_in_a_thousand_schedules() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "simulate", "--json", "--seed", "1", "--schedules", str(SCHEDULES)],
        env=os.environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=1440,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shown = json.loads(done.stdout)
    assert shown["violations"] == []
    assert shown["schedules"] == SCHEDULES
    assert set(shown["faults"]) == set(RATES), "a kind of fault was never tried"
    assert set(shown["jobs"]) == {"COMPLETED", "PARTIAL", "FAILED", "CANCELED"}
    assert sum(shown["jobs"].values()) >= SCHEDULES
    assert shown["schedules_per_second"] > 0


@pytest.fixture
def make_world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], World]]:
    """Makes the world of a seed. The randomness that it replaces is put back when the test is over."""
    monkeypatch.setattr("os.urandom", os.urandom)
    monkeypatch.setattr("random._urandom", os.urandom)
    engine = simulation_engine(database_url)
    clock = Clock(engine)
    settings = simulation_settings(database_url)
    yield lambda seed: World(engine, clock, settings, seed)
    engine.dispose()


@pytest.fixture
def world(make_world: Callable[[int], World]) -> World:
    """A finished schedule without faults."""
    world = make_world(3)
    world.dice.calm = True
    world.run()
    assert violations(world) == []
    return world


def test_a_seed_tells_the_same_story_again(make_world: Callable[[int], World]) -> None:
    def story(seed: int) -> tuple[Any, ...]:
        world = make_world(seed)
        world.run()
        events = rows(world.engine, "SELECT job_id, photo_id, name, at FROM job_events ORDER BY id")
        runs = [(run.prediction.id, run.sent_at, run.ends_at, run.end) for run in world.provider.runs.values()]
        return world.dice.faults, world.clock.seconds, runs, [tuple(event) for event in events]

    first = story(STORMY)
    assert sum(first[0].values()) > 10, "hardly a fault struck"
    assert story(STORMY + 1) != first
    assert story(STORMY) == first, "whatever ran before in the same database must not matter"


def test_a_forged_webhook_that_is_believed_is_noticed(make_world: Callable[[int], World]) -> None:
    world = make_world(3)
    world.dice.strikes = lambda fault: fault == "webhook forged"  # type: ignore[method-assign]
    world.webhooks._verifier.check = lambda *_: "believed"  # type: ignore[method-assign]
    world.run()
    assert [found for found in violations(world) if found.startswith("I10")]


def sql(statement: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        with world.engine.begin() as connection:
            connection.execute(text(statement))

    return run


def pay_again(world: World, *, known: bool = True, **changes: Any) -> None:
    """Put into the provider's books that the first photo was made once more, half a minute later."""
    first = next(iter(world.provider.runs.values()))
    again = replace(first.prediction, id="again")
    world.provider.runs["again"] = replace(
        first, prediction=again, sent_at=first.sent_at + 30, known_before=frozenset([first.prediction.id][:known])
    )
    world.provider.runs[first.prediction.id] = replace(first, **changes)


def answer_with_another_job(world: World) -> None:
    world.people.requests[0].answers.add(uuid4())


def break_a_picture(world: World) -> None:
    key = next(key for key in world.storage.objects if key.startswith("photos/"))
    world.storage.objects[key] = b"no picture"


@pytest.mark.parametrize(
    ("promise", "defect"),
    [
        ("I1", sql("UPDATE users SET credits = credits + 1")),
        ("I1", sql("UPDATE ledger_entries SET balance_after = balance_after + 1 WHERE kind = 'CHARGE'")),
        ("I2", sql("DELETE FROM ledger_entries WHERE kind = 'CHARGE'")),
        ("I2", sql("UPDATE ledger_entries SET amount = -2 WHERE kind = 'CHARGE'")),
        ("I2", sql("INSERT INTO ledger_entries (user_id, kind, amount, balance_after, job_id) "
                   "SELECT user_id, 'REFUND', 1, 2, id FROM jobs")),
        ("I2", sql("INSERT INTO ledger_entries (user_id, kind, amount, balance_after, reference) "
                   "SELECT id, 'GRANT', 1, credits + 1, 'retry:nothing' FROM users")),
        ("I2", break_a_picture),
        ("I3", sql("INSERT INTO job_events (job_id, name) SELECT id, 'job.failed' FROM jobs")),
        ("I3", sql("UPDATE jobs SET status = 'PARTIAL'")),
        ("I4", pay_again),
        ("I4", lambda world: pay_again(world, known=False)),
        ("I4", sql("UPDATE attempts SET cost = 0")),
        ("I4", sql("DELETE FROM attempts")),
        ("I4", sql("UPDATE attempts SET prediction_id = prediction_id || 'x'")),
        ("I5", sql("UPDATE jobs SET completed_at = completed_at + interval '1 hour'")),
        ("I6", lambda world: world.storage.objects.clear()),
        ("I6", lambda world: world.storage.objects.update({"photos/x/0/y": b""})),
        ("I7", sql("UPDATE job_events SET name = 'photo.failed' WHERE name = 'photo.started'")),
        ("I7", sql("DELETE FROM job_events WHERE name = 'photo.stored'")),
        ("I7", sql("DELETE FROM job_events WHERE name = 'job.accepted'")),
        ("I8", answer_with_another_job),
        ("I8", sql("UPDATE jobs SET idempotency_key = NULL")),
    ],
)  # fmt: skip
def test_the_checker_notices(world: World, promise: str, defect: Callable[[World], None]) -> None:
    defect(world)
    assert [found for found in violations(world) if found.startswith(promise)]


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param({"too_late": True, "known": False}, id="nobody could know"),
        pytest.param({"unreadable_from": 0.0}, id="it brought no photo"),
        pytest.param({"end": PredictionState.FAILED}, id="it failed"),
    ],
)
def test_paying_again_is_no_offence_when(world: World, earlier: dict[str, Any]) -> None:
    pay_again(world, **earlier)
    assert not [found for found in violations(world) if "was paid for as" in found]
    assert paid_twice_unknowably(world) == bool(earlier.get("too_late"))
