"""`cuggu queue` and Flower: both show what truly waits."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from cli.main import app
from shared import leases, photos
from shared.queue import JobQueue, make_celery
from shared.queue_figures import SweepNotes
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.rows import accepted_job
from tests.stack import RunningStack
from tests.waiting import wait_until


@pytest.fixture
def place(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose .env names the test's servers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"DATABASE_URL={settings.database_url}\nREDIS_URL={settings.redis_url}\n")
    return tmp_path


@pytest.fixture
def photo_ids(engine: Engine, settings: Settings) -> tuple[Any, ...]:
    """Two jobs: one just accepted, of which one photo is being made; one of four minutes ago, overdue. Six messages."""
    _, old_id, _ = accepted_job(engine)
    with Session(engine) as session, session.begin():
        for change in (
            "UPDATE jobs SET created_at = now() - interval '240 s' WHERE id = :id",
            "UPDATE photos SET next_check_at = now() - interval '200 s' WHERE job_id = :id",
        ):
            session.execute(text(change), {"id": old_id})
    _, _, photo_ids = accepted_job(engine)
    with Session(engine) as session, session.begin():
        claim = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert claim is not None
        photos.open_attempt(session, claim, "replicate", "flux")
    queue = JobQueue(make_celery(settings), settings.redis_url)
    assert queue.start_photos(photo_ids)
    assert queue.collect_photos(photo_ids[:1])
    assert queue.close_attempts(photo_ids[:1])
    return photo_ids


def run(*words: str, **env: str) -> Any:
    done = CliRunner().invoke(app, ["queue", *words], env={"COLUMNS": "160", **env})
    assert done.exit_code == 0, done.output
    return done


def test_what_waits_runs_and_is_overdue_is_told_by_age(
    place: Path, photo_ids: tuple[Any, ...], settings: Settings
) -> None:
    SweepNotes(settings.redis_url).note("sent")
    shown = run().stdout
    waiting, running = (re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()[1:3])
    assert [waiting[place] for place in (0, 1, 2, 4, 5, 6, 7)] == ["waiting", "7", "4", "3", "0", "4", "0"]
    assert 240 <= int(waiting[3].removesuffix(" s")) < 270
    assert [running[place] for place in (0, 1, 2, 4)] == ["running", "1", "0", "1"]
    assert "messages: start 4, collect 1, maintenance 1" in shown
    assert "1 attempts without a known prediction" in shown
    assert re.search(r"sweep: sent \d+\.\d s ago, finished not within a day", shown)


def test_as_json_it_says_the_same(place: Path, photo_ids: tuple[Any, ...]) -> None:
    told = json.loads(run("--json").stdout)
    assert told["photos"]["waiting"]["photos"] == 7
    assert told["photos"]["waiting"]["under_5_min"] == 4
    assert told["photos"]["running"]["under_10_s"] == 1
    assert told["attempts"] == {"ambiguous": 1, "unclosed": 0}
    assert told["redis"]["messages"] == {"start": 4, "collect": 1, "maintenance": 1}
    assert told["redis"]["sweep_finished_seconds_ago"] is None


def test_without_redis_the_rows_still_tell(place: Path, photo_ids: tuple[Any, ...]) -> None:
    away = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    assert "Redis does not answer" in run(**away).stdout
    told = json.loads(run("--json", **away).stdout)
    assert (told["redis"], told["photos"]["waiting"]["photos"]) == (None, 7)


def test_it_can_be_watched_until_ctrl_c(place: Path, engine: Engine) -> None:
    log = place / "watched"
    with log.open("w") as out:
        command = [str(Path(sys.executable).with_name("cuggu")), "queue", "--watch"]
        watching = subprocess.Popen(command, cwd=place, stdout=out, stderr=subprocess.STDOUT)
    try:
        # It begins before there is anything, and sees what comes.
        wait_until(lambda: _looks(engine) != [], 60)
        accepted_job(engine)
        seen = _looks(engine)
        wait_until(lambda: _looks(engine) != seen, 60)
        seen = _looks(engine)
        wait_until(lambda: _looks(engine) != seen, 60)  # the look before may have begun before the job was there
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        watching.wait()
    assert re.search(r"waiting +4 ", log.read_text())


def _looks(engine: Engine) -> list[Any]:
    """When others last began to ask this database something."""
    others = "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.connect() as connection:
        return list(connection.execute(text(f"{others} AND application_name = 'cuggu'")).scalars())


@pytest.mark.timeout(300)
def test_flower_shows_the_lengths_of_the_three_queues_to_who_signs_in(
    running_stack: Callable[..., RunningStack], place: Path, photo_ids: tuple[Any, ...]
) -> None:
    stack = running_stack(processes=("flower",))
    address = f"http://127.0.0.1:{stack.env['FLOWER_PORT']}"
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as anybody:
        for page in ("/broker", "/api/queues/length"):
            assert anybody.get(page).status_code == 401, page
    user, password = stack.env["FLOWER_BASIC_AUTH"].split(":")
    with httpx.Client(base_url=address, trust_env=False, timeout=30, auth=(user, password)) as ops:
        told = ops.get("/api/queues/length").raise_for_status().json()["active_queues"]
        assert {entry["name"]: entry["messages"] for entry in told} == {"start": 4, "collect": 1, "maintenance": 1}
        assert ops.get("/broker").status_code == 200
    assert json.loads(run("--json").stdout)["redis"]["messages"] == {"start": 4, "collect": 1, "maintenance": 1}


@pytest.mark.timeout(300)
def test_flower_shows_what_the_workers_do(running_stack: Callable[..., RunningStack]) -> None:
    """Nobody else has them tell: it takes a Flower some seconds until they do."""
    stack = running_stack(processes=("worker", "beat", "flower"))
    login = tuple(stack.env["FLOWER_BASIC_AUTH"].split(":"))
    address = f"http://127.0.0.1:{stack.env['FLOWER_PORT']}"
    with httpx.Client(base_url=address, trust_env=False, timeout=30, auth=login) as ops:

        def succeeded() -> bool:
            tasks = ops.get("/api/tasks").raise_for_status().json().values()
            return any(task["name"] == "sweep" and task["state"] == "SUCCESS" for task in tasks)

        wait_until(succeeded, 60)
