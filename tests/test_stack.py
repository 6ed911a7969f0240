"""The supervisor: what it starts, how it knows that it is ready, what it does when something dies, how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.processes import StartFailed, free_port
from cli.readiness import answers
from cli.running_record import environment_of_running_stack
from cli.stack import COMMANDS, RESTART_SECONDS, STOP_SECONDS, Ended, Stack
from shared.settings import Settings
from tests import small_stack
from tests.stack import RunningStack
from tests.test_embedded import is_gone
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def small(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes stacks of small processes; their database is named and never asked."""
    stacks: list[Stack] = []

    def make(**options: object) -> Stack:
        environment = {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": redis_url}
        defaults: dict[str, object] = {
            "environment": environment,
            "commands": {**COMMANDS, **small_stack.COMMANDS},
            "processes": ("api", "worker", "beat"),
            "port": free_port(),
            "flower_port": free_port(),
            "migrate": False,
        }
        stacks.append(Stack(tmp_path, **{**defaults, **options}))  # type: ignore[arg-type]
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.stop()


def test_every_process_has_its_time_to_stop() -> None:
    assert STOP_SECONDS.keys() == COMMANDS.keys()


def test_a_ready_stack_answers_consumes_and_says_where_it_is(small: Callable[..., Stack], redis_url: str) -> None:
    stack = small(processes=("api", "worker", "worker-2", "beat"))
    stack.start()
    stack.wait_ready()
    assert httpx.get(f"{stack.api_url}/readyz").status_code == 200
    workers = [stack.health_url(name) for name in ("worker", "worker-2")]
    assert workers[0] != workers[1]
    assert all(answers(f"{url}/readyz") for url in workers)
    known = environment_of_running_stack(stack.data_dir)
    assert known == {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "REDIS_URL": redis_url,
        "DATA_DIR": str(stack.data_dir),
        "PUBLIC_URL": stack.api_url,
    }
    assert (stack.data_dir / "running.json").stat().st_mode & 0o077 == 0
    pids = [stack.pid(name) for name in stack.processes]
    stack.kill_process("worker")
    assert [answers(f"{url}/readyz") for url in workers] == [False, True]
    stack.stop()
    assert all(is_gone(pid) for pid in pids)
    assert environment_of_running_stack(stack.data_dir) is None


def test_a_process_that_dies_is_started_again_after_growing_pauses(
    small: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("cli.stack.time.monotonic", lambda: now)
    stack = small(processes=("beat",))
    stack.start()
    for pause in (*RESTART_SECONDS, RESTART_SECONDS[-1]):
        died = stack.pid("beat")
        psutil.Process(died).kill()
        wait_until(lambda pid=died: is_gone(pid))  # type: ignore[misc]
        stack.tend()
        now += pause - 0.01
        stack.tend()
        assert stack.pid("beat") == died
        now += 0.02
        stack.tend()
        assert stack.pid("beat") != died
    assert f"beat exited with -9; starting it again in {RESTART_SECONDS[1]} s" in stack.logs("stack")
    now += 61
    psutil.Process(stack.pid("beat")).kill()
    wait_until(lambda: is_gone(stack.pid("beat")))
    stack.tend()
    assert stack.logs("stack", 1).endswith(f"in {RESTART_SECONDS[0]} s")


def test_a_blow_from_outside_strikes_a_processs_children_too_and_it_comes_back_after_the_given_pause(
    small: Callable[..., Stack],
) -> None:
    parent = ("sh", "-c", "sleep 600 & wait")
    stack = small(processes=("beat",), commands={"beat": parent}, restart_seconds=(0,))
    stack.start()
    struck = psutil.Process(stack.pid("beat"))
    wait_until(struck.children)
    [child] = struck.children()
    assert stack.send_signal("beat", signal.SIGKILL)
    wait_until(lambda: is_gone(struck.pid) and is_gone(child.pid))
    assert not stack.send_signal("beat", signal.SIGKILL)
    stack.tend()
    stack.tend()
    assert stack.pid("beat") != struck.pid
    assert stack.send_signal("beat", signal.SIGKILL)


def test_a_process_that_exits_while_starting_is_reported_with_its_last_words(small: Callable[..., Stack]) -> None:
    broken = ("sh", "-c", "echo the reason; exit 3")
    stack = small(processes=("beat",), commands={"beat": broken})
    stack.start()
    wait_until(lambda: is_gone(stack.pid("beat")))
    with pytest.raises(StartFailed, match=r"beat exited with 3\.(.|\n)*the reason"):
        stack.wait_ready()


def test_one_directory_carries_one_stack(small: Callable[..., Stack]) -> None:
    first = small(processes=("beat",))
    first.start()
    with pytest.raises(StartFailed, match=r"Cuggu is already running on .*\."):
        small(processes=("beat",)).start()
    assert not is_gone(first.pid("beat"))
    first.stop()
    small(processes=("beat",)).start()


def test_a_taken_port_is_named(small: Callable[..., Stack], tmp_path: Path) -> None:
    first = small(processes=("api",))
    first.start()
    first.wait_ready()
    (tmp_path / "other").mkdir()
    with pytest.raises(StartFailed, match=f"^Port {first.port} is taken; give the api another one with --port.$"):
        Stack(tmp_path / "other", environment={}, processes=("api",), port=first.port).start()


def test_what_an_earlier_run_left_behind_is_ended(small: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.processes._die_with_parent", lambda _: None)
    killed = small(processes=("beat",))
    killed.start()
    left = killed.pid("beat")
    assert killed._lock
    killed._lock.release()  # as the kernel does for a starter that was killed
    stack = small(processes=("beat",))
    stack.start()
    wait_until(lambda: is_gone(left))
    assert f"ended beat ({left})" in stack.logs("stack")
    assert not is_gone(stack.pid("beat"))


def test_a_stranger_with_the_number_of_an_old_child_is_left_alone(small: Callable[..., Stack]) -> None:
    with subprocess.Popen(["sleep", "601"]) as stranger:
        stack = small(processes=("beat",))
        record = {"environment": {}, "children": {"beat": [stranger.pid, ["sleep", "600"]]}}
        (stack.data_dir / "running.json").write_text(json.dumps(record))
        stack.start()
        assert stranger.poll() is None
        stranger.kill()


def test_an_end_while_starting_stops_what_had_been_started(small: Callable[..., Stack]) -> None:
    stack = small(processes=("beat",))
    stack.start()
    stack.ending = True
    with pytest.raises(Ended):
        stack.wait_ready()
    stack.stop()
    assert environment_of_running_stack(stack.data_dir) is None


def test_hurry_kills_what_would_end_slowly(small: Callable[..., Stack]) -> None:
    deaf = ("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")
    stack = small(processes=("worker",), commands={"worker": deaf})
    stack.start()
    wait_until(lambda: "deaf" in stack.logs("worker"))
    pid = stack.pid("worker")
    stack.hurry.set()
    stack.stop()
    assert is_gone(pid)
    assert "worker did not end in time and was killed" in stack.logs("stack")


def test_flowers_login_is_made_once_and_kept_private(small: Callable[..., Stack]) -> None:
    stack = small()
    login = stack.flower_login
    assert re.fullmatch(r"cuggu:[\w-]{24}", login)
    assert small().flower_login == login
    assert (stack.data_dir / "flower-login").stat().st_mode & 0o777 == 0o600


def test_serve_explains_itself() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    for word in ("--port", "--flower-port", "DATABASE_URL", "REDIS_URL", "Ctrl-C"):
        assert word in result.stdout


def test_serve_refuses_an_address_that_is_not_ours_in_one_sentence(tmp_path: Path) -> None:
    with serving(tmp_path, free_port(), "--host", "192.0.2.1") as serve:  # reserved for documentation
        assert serve.wait(60) == 1
    assert "The api cannot listen on 192.0.2.1 port" in (tmp_path / "errors").read_text()


def test_serve_survives_a_kill_and_ends_on_a_signal(open_dir: Path) -> None:
    """The whole system with nothing given: start, kill -9, start again on the same data, Ctrl-C."""
    port = free_port()
    data_dir = open_dir / ".cuggu"
    with serving(open_dir, port) as serve:
        wait_until(lambda: "Cuggu is ready." in output(open_dir, serve), 120)
        children = psutil.Process(serve.pid).children(recursive=True)
        assert {"flower-login", "postgres", "redis", "running.json"} <= {path.name for path in data_dir.iterdir()}
        with psycopg.connect(json.loads((data_dir / "running.json").read_text())["environment"]["DATABASE_URL"]) as db:
            db.execute("CREATE TABLE kept ()")
        serve.kill()
        if sys.platform == "linux":
            wait_until(lambda: all(is_gone(child.pid) for child in children))
    with serving(open_dir, port) as serve:
        wait_until(lambda: "Cuggu is ready." in output(open_dir, serve), 120)
        children = psutil.Process(serve.pid).children(recursive=True)
        environment = environment_of_running_stack(data_dir)
        assert environment
        with psycopg.connect(environment["DATABASE_URL"]) as db:
            db.execute("SELECT FROM kept")
        assert httpx.get(f"{environment['PUBLIC_URL']}/readyz").status_code == 200
        printed = output(open_dir, serve)
        flower = re.search(r"(http\S+)   user (\S+), password (\S+)", printed)
        assert flower
        address, user, password = flower.groups()
        assert httpx.get(address).status_code == 401
        assert httpx.get(address, auth=(user, password), follow_redirects=True).status_code == 200
        assert re.search(r"^worker   \| ", printed, re.MULTILINE)
        serve.send_signal(signal.SIGINT)
        assert serve.wait(90) == 0
    assert all(is_gone(child.pid) for child in children)
    assert not (data_dir / "running.json").exists()


@contextmanager
def serving(directory: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`cuggu serve` in a directory of its own, with nothing set."""
    settings = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    words = ["serve", "--port", str(port), "--flower-port", str(free_port()), *options]
    with (directory / "output").open("wb") as out, (directory / "errors").open("wb") as errors:
        command = [str(Path(sys.executable).with_name("cuggu")), *words]
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=errors)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(90)


def output(directory: Path, process: subprocess.Popen[bytes]) -> str:
    assert process.poll() is None, (directory / "errors").read_text()
    return (directory / "output").read_text()


def test_a_tests_own_stack_serves_its_database_and_survives_a_killed_worker(
    running_stack: Callable[..., RunningStack], settings: Settings
) -> None:
    stack = running_stack(env={"SIGNUP_CREDITS": "7"})
    assert stack.env["DATABASE_URL"] == settings.database_url
    assert stack.env["SIGNUP_CREDITS"] == "7"
    assert stack.data_dir == settings.data_dir
    assert httpx.get(f"{stack.api_url}/readyz").status_code == 200
    killed = stack.pid("worker")
    stack.kill("worker")
    assert is_gone(killed)
    stack.start("worker")
    assert stack.pid("worker") != killed
    assert {name for name, _ in stack.log_tails()} >= {"api.log", "worker.log", "beat.log"}
