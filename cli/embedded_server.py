"""A server that lives as long as its starter: how it starts until it answers, and how it ends.

Both of ours have a directory with a lock on it, a password of their own and a port that stays the same.
"""

import os
import secrets
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from cli.processes import Lock, StartFailed, end_child, free_port, make_data_dir, tail

START_SECONDS = 60  # crash recovery of a large database on a slow disk is the longest start
PORT_ATTEMPTS = 5


class EmbeddedServer(ABC):
    """One child process. What the programs differ in is left to PostgreSQL's and Valkey's own (`cli/embedded.py`)."""

    name: str
    database: str
    _ask_to_stop: signal.Signals
    _stop_seconds: float

    def __init__(self, data_dir: Path, *, port: int | None = None, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.durable = durable
        self.log = self.data_dir / "logs" / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.password = ""
        self._lock: Lock | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the server and return when it has answered. Raises StartFailed. Does nothing while it runs."""
        if self.running:
            return
        make_data_dir(self.data_dir)
        if self._lock is None:
            refusal = f"The {self.name} server in {self.data_dir} is in use by another process of Cuggu."
            self._lock = Lock(self.data_dir / f"{self.name}.lock", refusal)
        try:
            self.password = self._read_or_make_password()
            self._prepare()
            self._start_and_wait()
        except BaseException:
            self.stop()
            raise

    def stop(self, hurry: threading.Event | None = None) -> None:
        """End it in an orderly way, keeping every write; after a limit, or once `hurry` is set, by force."""
        if self.process is not None:
            end_child(self.process, self._ask_to_stop, self._stop_seconds, hurry)
            self.process = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would: `start` then recovers. The directory stays ours until `stop`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Stop and start again under the same address."""
        if self.process is not None:
            end_child(self.process, self._ask_to_stop, self._stop_seconds)
            self.process = None
        self.start()

    def _start_and_wait(self) -> None:
        """Start the child until it answers. One that exits early may have lost the race for its port, or may have
        met the last remains of a killed predecessor (shared memory): it is tried again for a while.
        """
        deadline = time.monotonic() + START_SECONDS
        refused = 0
        while True:
            port = self.port or free_port()
            self.process = self._spawn(port)
            error: Exception | None = None
            while self.process.poll() is None and time.monotonic() < deadline:
                try:
                    self._greet(port)
                except ConnectionError as not_yet:
                    error = not_yet
                    time.sleep(0.03)
                else:
                    self.port = port
                    return
            refused += 1
            if refused == PORT_ATTEMPTS or time.monotonic() > deadline:
                raise StartFailed(
                    f"The embedded {self.name} server did not start ({error or 'it exited'}). "
                    f"The end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(0.2 * refused)

    def _read_or_make_password(self) -> str:
        path = self.data_dir / f"{self.name}-password"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            password = secrets.token_hex(24)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(password + "\n")
            return password

    @abstractmethod
    def _prepare(self) -> None:
        """Make the directory ready, and end what an earlier run may have left running in it."""

    @abstractmethod
    def _spawn(self, port: int) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _greet(self, port: int) -> None:
        """Raise ConnectionError unless our server, and not a stranger on the same port, does real work."""
