"""Real processes around one test's own database, for tests of the whole way through."""

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path

from cli.processes import free_port
from cli.stack import COMMANDS, RESTART_SECONDS, Stack
from shared.settings import Settings


class RunningStack:
    """API, worker and beat as processes. Ends with the test that asked for it (fixture `running_stack`)."""

    def __init__(
        self,
        data_dir: Path,
        env: Mapping[str, str],
        *,
        processes: Iterable[str] = ("api", "worker", "beat"),
        commands: Mapping[str, tuple[str, ...]] = COMMANDS,
        restart_seconds: Sequence[float] = RESTART_SECONDS,
    ) -> None:
        """`env` must name DATABASE_URL (migrated) and REDIS_URL; of our own environment no setting gets through."""
        settings = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
        data_dir.mkdir(parents=True, exist_ok=True)
        self._stack = Stack(
            data_dir,
            environment=inherited | {"PUBLIC_URL": "", "LOG_LEVEL": "INFO"} | dict(env),
            processes=processes,
            commands=commands,
            port=free_port(),
            flower_port=free_port(),
            migrate=False,
            restart_seconds=restart_seconds,
        )
        self.data_dir = self._stack.data_dir
        self.api_url = self._stack.api_url

    @property
    def env(self) -> dict[str, str]:
        """What the processes were started with, for commands of the test's own."""
        return dict(self._stack.environment)

    def change_env(self, **changes: str) -> None:
        """For the processes that are started from now on."""
        self._stack.environment |= changes

    def begin(self) -> None:
        with chdir(self.data_dir):  # where there is no developer's .env to be read
            self._stack.start()
        self._stack.wait_ready()

    def start(self, name: str) -> None:
        """Start a process (again), or one more, such as `worker-2`; returns when it is ready."""
        with chdir(self.data_dir):
            self._stack.start_process(name)
        self._stack.wait_ready()

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._stack.kill_process(name)

    def stop(self, name: str) -> None:
        """SIGTERM, and wait."""
        self._stack.stop_process(name)

    def tend(self) -> None:
        """Start again what died by itself or by `send_signal`, as `cuggu serve` does; call it a few times a second."""
        with chdir(self.data_dir):
            self._stack.tend()

    def send_signal(self, name: str, wanted: signal.Signals) -> bool:
        """False if the process is not running just now."""
        return self._stack.send_signal(name, wanted)

    def health_url(self, name: str) -> str:
        return self._stack.health_url(name)

    def pid(self, name: str) -> int:
        return self._stack.pid(name)

    def logs(self, name: str, lines: int = 10_000) -> str:
        return self._stack.logs(name, lines)

    def log_tails(self) -> list[tuple[str, str]]:
        """(file name, last lines) of every log, for a failed test's report."""
        logs = sorted((self.data_dir / "logs").glob("*.log"))
        return [(log.name, self._stack.logs(log.stem, 40)) for log in logs]

    def end(self) -> None:
        self._stack.stop()
