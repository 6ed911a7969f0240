"""What is measured runs here: real servers, a database for each measure, our processes, and the peers' programs."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGTERM
from uuid import uuid4

import jwt
import psutil
import psycopg

from bench.harness import RoundVoid, other_cores, pin, server_cores
from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from cli.processes import end_child, free_port, start_child, tail
from cli.readiness import answers
from cli.stack import COMMANDS, Stack
from migrations.run import upgrade
from shared.settings import Settings

START_SECONDS = 60
SECRET = "what the site signs its tokens with, on this machine alone"
REDIS_DATABASES = 64
# As in production, and nothing in the way that is not measured.
ENVIRONMENT = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "LOG_LEVEL": "WARNING", "LOG_FORMAT": "json"}


@dataclass(frozen=True, slots=True)
class Program:
    """A peer that runs."""

    pid: int
    url: str


@dataclass
class World:
    """The servers of one run. `quick` is for trying the harness out: short, and its figures mean nothing."""

    directory: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedRedis
    quick: bool
    _redis_databases: Iterator[int] = field(default_factory=lambda: iter(range(1, REDIS_DATABASES)))

    def database(self, *, migrated: bool = True) -> str:
        """The address of a new database."""
        name = f"bench_{uuid4().hex}"
        with psycopg.connect(self.postgres.url_for("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = self.postgres.url_for(name)
        if migrated:
            upgrade(url)
        return url

    def redis(self) -> str:
        """The address of an empty database of Redis."""
        return f"{self.valkey.url.rsplit('/', 1)[0]}/{next(self._redis_databases)}"

    def servers(self, *, migrated: bool = True) -> dict[str, str]:
        """A new database and an empty Redis, as settings."""
        return {"DATABASE_URL": self.database(migrated=migrated), "REDIS_URL": self.redis()}

    @contextmanager
    def ours(
        self,
        environment: Mapping[str, str],
        processes: Sequence[str] = ("api",),
        commands: Mapping[str, tuple[str, ...]] = COMMANDS,
    ) -> Iterator[Stack]:
        """Our processes over the servers that `environment` names, ready, on the cores of what is measured."""
        settings = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
        directory = self.directory / f"stack-{uuid4().hex[:8]}"
        directory.mkdir()
        stack = Stack(directory, environment=inherited | ENVIRONMENT | dict(environment), processes=processes,
                      commands=commands, port=free_port(), flower_port=free_port(), migrate=False)  # fmt: skip
        with chdir(directory):  # where no developer's .env is read
            stack.start()
        try:
            stack.wait_ready()
            for name in stack.processes:
                pin(stack.pid(name), server_cores())
            yield stack
        finally:
            stack.stop()

    @contextmanager
    def peer(self, module: str, environment: Mapping[str, str]) -> Iterator[Program]:
        """`python -m bench.peers.MODULE`, once it answers /readyz, on the cores of what is measured."""
        port = free_port()
        argv = [sys.executable, "-m", f"bench.peers.{module}"]
        with self.process(argv, {**environment, "API_PORT": str(port)}, module) as pid:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_SECONDS
            while not answers(f"{url}/readyz"):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{module} does not answer:\n{tail(self.directory / f'{module}.log')}")
                time.sleep(0.1)
            pin(pid, server_cores())
            yield Program(pid, url)

    @contextmanager
    def celery(self, app: str, environment: Mapping[str, str], *options: str, killed: bool = False) -> Iterator[int]:
        """A peer's worker, once it says that it is ready; `killed` for one that is meant to end."""
        program = Path(sys.executable).with_name("celery")
        argv = [str(program), "-A", app, "worker", "--loglevel", "INFO", *options]
        log = self.directory / f"{app.rpartition('.')[0]}.worker.log"
        log.unlink(missing_ok=True)
        with self.process(argv, environment, log.stem, killed=killed) as pid:
            deadline = time.monotonic() + START_SECONDS
            while " ready." not in tail(log, 200):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{app} does not work:\n{tail(log)}")
                time.sleep(0.1)
            pin(pid, server_cores())
            yield pid

    @contextmanager
    def process(
        self, argv: Sequence[str], environment: Mapping[str, str], name: str, *, killed: bool = False
    ) -> Iterator[int]:
        """Any process, from start to end. Raises RoundVoid if it ended by itself."""
        child = start_child(argv, log=self.directory / f"{name}.log", env={**os.environ, **ENVIRONMENT, **environment})
        try:
            yield child.pid
            if not killed and child.poll() is not None:
                raise RoundVoid(f"{name} ended:\n{tail(self.directory / f'{name}.log')}")
        finally:
            end_child(child, SIGTERM, 10)


@contextmanager
def world(directory: Path, *, quick: bool) -> Iterator[World]:
    """Start the servers, and end them afterwards."""
    with ExitStack() as running:
        postgres = running.enter_context(EmbeddedPostgres(directory, settings=_postgres_settings()))
        running.callback(postgres.discard)
        valkey = running.enter_context(EmbeddedRedis(directory, durable=False, databases=REDIS_DATABASES))
        for server in (postgres, valkey):
            assert server.process is not None
            pin(server.process.pid, other_cores())
        yield World(directory, postgres, valkey, quick)


def _postgres_settings() -> dict[str, str]:
    """A quarter of the memory, as PostgreSQL's documentation advises; 128 MB is only its default."""
    return {"shared_buffers": f"{psutil.virtual_memory().total // 4 // 2**20}MB"}


def token(email: str) -> str:
    """As the site would issue it."""
    claims = {
        "email": email,
        "iss": "cuggu-development",
        "aud": "cuggu-photos",
        "exp": datetime.now(UTC) + timedelta(hours=2),
    }
    return jwt.encode(claims, SECRET, "HS256")
