"""The whole system as real processes: the embedded servers that are needed, then API, worker, beat and Flower."""

import errno
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from cli import running_record
from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from cli.processes import (
    Lock,
    StartFailed,
    end_child,
    free_port,
    listen_error,
    make_data_dir,
    start_child,
    tail,
)
from cli.readiness import answers

# The one table of what runs. Procfile, containers and services say the same, and a test compares them.
# Addresses and secrets come by environment (API_HOST, API_PORT, FLOWER_PORT, FLOWER_BASIC_AUTH, ...).
COMMANDS: dict[str, tuple[str, ...]] = {
    "api": ("python", "-m", "api"),
    "worker": ("python", "-m", "worker"),
    "beat": ("python", "-m", "worker.beat"),
    "flower": ("celery", "-A", "worker.main:app", "flower"),
}

# In the order of stopping: nothing new comes in, nothing new is due, then what is being worked on is finished.
STOP_SECONDS = {"api": 15, "beat": 5, "worker": 30, "flower": 5}
RESTART_SECONDS = (0.5, 1, 2, 5, 10, 30)
STEADY_SECONDS = 60  # one that ran this long starts the row above anew


class Ended(Exception):
    """The user asked for the end while the stack was still starting."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    started_at: float
    health_url: str | None  # where a worker says how it is
    failures: int = 0
    next_start_at: float | None = None  # it died, and comes back then


def ambient_environment() -> dict[str, str]:
    """What the settings would be read from: `.env`, overruled by the environment; empty values count as absent."""
    files = {name.upper(): value for name, value in dotenv_values(".env").items()}
    return {name: value for name, value in {**files, **os.environ}.items() if value}


class Stack:
    """Everything that one `cuggu serve` runs. Use it from the main thread.

    Attributes:
        environment: what every child gets; complete after `start`.
        ending: set (from a signal handler) to make `start` and `wait_ready` give up with `Ended`.
        hurry: set to have `stop` kill what does not end at once.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        environment: Mapping[str, str] | None = None,
        processes: Iterable[str] = tuple(COMMANDS),
        commands: Mapping[str, tuple[str, ...]] = COMMANDS,
        host: str = "127.0.0.1",
        port: int = 8000,
        flower_port: int = 5555,
        durable: bool = True,
        migrate: bool = True,
        restart_seconds: Sequence[float] = RESTART_SECONDS,
    ) -> None:
        """`processes` names what to start: keys of `commands`, and more of a kind as `worker-2`, `worker-3`.

        `restart_seconds` are the pauses before what died is started again; the last one stays.
        """
        self.data_dir = data_dir.absolute()
        self.processes = tuple(processes)
        self.environment = dict(ambient_environment() if environment is None else environment)
        self.host, self.port, self.flower_port = host, port, flower_port
        self.api_url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
        self.flower_url = f"http://127.0.0.1:{flower_port}"
        self.ending = False
        self.hurry = threading.Event()
        self._commands = commands
        self._durable = durable
        self._migrate = migrate
        self._restart_seconds = tuple(restart_seconds)
        self._servers: list[EmbeddedPostgres | EmbeddedRedis] = []
        self._children: dict[str, _Child] = {}
        self._lock: Lock | None = None

    def start(self) -> None:
        """Start everything. Raises StartFailed or Ended, after stopping what had been started."""
        make_data_dir(self.data_dir)
        self._lock = Lock(running_record.lock_path(self.data_dir), f"Cuggu is already running on {self.data_dir}.")
        try:
            self._check_ports()
            self._keep_one_older_log()
            for sentence in running_record.end_leftovers(self.data_dir):
                self._note(sentence)
            self._start_servers()
            if self._migrate:
                self._give_up_if_ending()
                from migrations.run import upgrade  # noqa: PLC0415

                upgrade(self.environment["DATABASE_URL"])
            self.environment |= {
                "DATA_DIR": str(self.data_dir),
                "PUBLIC_URL": self.environment.get("PUBLIC_URL") or self.api_url,
                "API_HOST": self.host,
                "API_PORT": str(self.port),
                "FLOWER_ADDRESS": "127.0.0.1",  # whoever reaches Flower can stop workers
                "FLOWER_PORT": str(self.flower_port),
                "FLOWER_BASIC_AUTH": self.flower_login,
                "PYTHONUNBUFFERED": "1",
            }
            for name in self.processes:
                self._give_up_if_ending()
                self.start_process(name)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_seconds: float = 90) -> None:
        """Return when the API and every worker answer /readyz, and Flower answers.

        Raises:
            StartFailed: a process exited, or the time is over.
            Ended: `ending` was set.
        """
        deadline = time.monotonic() + timeout_seconds
        waiting = list(self._children)
        while waiting:
            self._give_up_if_ending()
            for name in waiting:
                code = self._children[name].process.poll()
                if code is not None or time.monotonic() > deadline:
                    what = f"exited with {code}" if code is not None else f"was not ready in {timeout_seconds:.0f} s"
                    raise StartFailed(f"{name} {what}. The end of {self.log_path(name)}:\n{self.logs(name)}")
            waiting = [name for name in waiting if not self._is_ready(name)]
            time.sleep(0.05)

    def tend(self) -> None:
        """Bring back what died, after a pause that grows with every failure. Call it a few times a second."""
        for server in self._servers:
            if not server.running:
                self._note(f"{server.name} died; starting it again")
                try:
                    server.start()
                except StartFailed as error:
                    self._note(str(error))
        now = time.monotonic()
        for name, child in list(self._children.items()):
            if child.next_start_at is not None:
                if now >= child.next_start_at:
                    self.start_process(name)
            elif child.process.poll() is not None:
                if now - child.started_at > STEADY_SECONDS:
                    child.failures = 0
                pause = self._restart_seconds[min(child.failures, len(self._restart_seconds) - 1)]
                child.failures += 1
                child.next_start_at = now + pause
                self._note(f"{name} exited with {child.process.returncode}; starting it again in {pause:g} s")

    def stop(self) -> None:
        """End everything in order; with `hurry`, at once. May be called at any time, and twice."""
        kinds = list(STOP_SECONDS)
        for name in sorted(self._children, key=lambda name: kinds.index(_kind(name))):
            self.stop_process(name)
        for server in reversed(self._servers):
            server.stop(self.hurry)
        self._servers.clear()
        if self._lock:
            running_record.forget(self.data_dir)
            self._lock.release()
            self._lock = None

    def start_process(self, name: str) -> None:
        """Start (again) one of the processes, or one more of a kind, such as `worker-2`."""
        program, *arguments = self._commands[_kind(name)]
        beside_python = Path(sys.executable).parent / program
        argv = [str(beside_python if beside_python.exists() else program)]
        argv += arguments
        if name != _kind(name):
            argv += ["--name", f"{name}@%h"]
        failures = self._children[name].failures if name in self._children else 0
        environment, health_url = self.environment, None
        if _kind(name) == "worker":
            port = free_port()  # several of them on this machine, and any may be restarted
            environment = environment | {"WORKER_HEALTH_HOST": "127.0.0.1", "WORKER_HEALTH_PORT": str(port)}
            health_url = f"http://127.0.0.1:{port}"
        process = start_child(argv, log=self.log_path(name), env=environment)
        self._children[name] = _Child(process, time.monotonic(), health_url, failures)
        running_record.write(
            self.data_dir, self.environment, {name: child.process for name, child in self._children.items()}
        )

    def stop_process(self, name: str) -> None:
        """End one process in its orderly way; it stays away until `start_process`."""
        child = self._children.pop(name)
        if not end_child(child.process, signal.SIGTERM, STOP_SECONDS[_kind(name)], self.hurry):
            self._note(f"{name} did not end in time and was killed")

    def kill_process(self, name: str) -> None:
        """End one process with SIGKILL; it stays away until `start_process`."""
        child = self._children.pop(name)
        child.process.kill()
        child.process.wait()

    def send_signal(self, name: str, wanted: signal.Signals) -> bool:
        """Send a signal from outside, as it were: what it ends comes back by `tend`. False if it is not running.

        SIGTERM asks the process alone; any other strikes its own children too, as a container's end would.
        """
        child = self._children[name]
        if child.process.poll() is not None:
            return False
        if wanted is signal.SIGTERM:
            child.process.send_signal(wanted)
        else:
            os.killpg(child.process.pid, wanted)  # it leads its own session, see start_child
        return True

    def pid(self, name: str) -> int:
        return self._children[name].process.pid

    def health_url(self, name: str) -> str:
        """Where this worker answers /healthz and /readyz; another address whenever it is started again."""
        url = self._children[name].health_url
        if url is None:
            raise LookupError(f"{name} is no worker")
        return url

    def log_path(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def logs(self, name: str, lines: int = 20) -> str:
        """The last lines of a process's output."""
        return tail(self.log_path(name), lines)

    @property
    def flower_login(self) -> str:
        """`user:password` for Flower, made once and kept in a file that only we can read."""
        path = self.data_dir / "flower-login"
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"cuggu:{secrets.token_urlsafe(18)}\n")
        return path.read_text().strip()

    def _is_ready(self, name: str) -> bool:
        kind = _kind(name)
        if kind == "api":
            return answers(f"{self.api_url}/readyz")
        if kind == "flower":
            return answers(f"{self.flower_url}/healthcheck")
        if kind == "worker":
            return answers(f"{self.health_url(name)}/readyz")
        return True  # beat only sends; it is ready once it runs

    def _check_ports(self) -> None:
        wanted = {"api": (self.host, self.port, "--port"), "flower": ("127.0.0.1", self.flower_port, "--flower-port")}
        for name, (host, port, option) in wanted.items():
            error = listen_error(host, port) if name in self.processes else None
            if error and error.errno == errno.EADDRINUSE:
                raise StartFailed(f"Port {port} is taken; give the {name} another one with {option}.")
            if error:
                raise StartFailed(f"The {name} cannot listen on {host} port {port}: {error.strerror}.")

    def _start_servers(self) -> None:
        if not self.environment.get("DATABASE_URL"):
            self._give_up_if_ending()
            postgres = EmbeddedPostgres(self.data_dir, durable=self._durable)
            self._servers.append(postgres)
            postgres.start()
            self.environment["DATABASE_URL"] = postgres.url
        if not self.environment.get("REDIS_URL"):
            self._give_up_if_ending()
            valkey = EmbeddedRedis(self.data_dir, durable=self._durable)
            self._servers.append(valkey)
            valkey.start()
            self.environment["REDIS_URL"] = valkey.url

    def _keep_one_older_log(self) -> None:
        for log in (self.data_dir / "logs").glob("*.log"):
            log.replace(log.with_suffix(".log.1"))

    def _give_up_if_ending(self) -> None:
        if self.ending:
            raise Ended

    def _note(self, sentence: str) -> None:
        with self.log_path("stack").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")


def _kind(name: str) -> str:
    return name.split("-", 1)[0]
