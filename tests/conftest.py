"""What every test may ask for. Nothing here starts a server, or imports a driver, before a test asks."""

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import structlog

from shared.settings import Settings
from tests.servers import TEMPLATE, Servers, join_run, leave_run, locked, running_servers

if TYPE_CHECKING:
    import httpx
    import psycopg
    import redis
    from playwright.sync_api import Browser
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from tests.api_client import Client
    from tests.page_stack import PageStack
    from tests.stack import RunningStack

RUN_DIR = "CUGGU_TEST_RUN_DIR"
_users = pytest.StashKey[IO[bytes]]()
_stacks = pytest.StashKey["list[RunningStack]"]()


def pytest_configure(config: pytest.Config) -> None:
    _cache_no_logger()
    _hear_interrupts()
    if not hasattr(config, "workerinput"):
        # Not below pytest's own directory, which is closed to the account that PostgreSQL runs as under root.
        run_dir = Path(tempfile.mkdtemp(prefix="cuggu-tests-"))
        run_dir.chmod(0o711)
        os.environ[RUN_DIR] = str(run_dir)  # for the xdist workers, which are our children
    config.stash[_users] = join_run(Path(os.environ[RUN_DIR]))


def _hear_interrupts() -> None:
    """A shell starts what it runs in the background with SIGINT ignored, and so would be our children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _cache_no_logger() -> None:
    """A logger that keeps what the first application of a test process configured is heard by no later test."""
    configure = structlog.configure

    def without_cache(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    structlog.configure = without_cache


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and _users in config.stash:
        leave_run(Path(os.environ.pop(RUN_DIR)), config.stash[_users])


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report shows what its processes said last."""
    report = yield
    if report.failed:
        for stack in item.stash.get(_stacks, []):
            report.sections += [(f"{name} of the stack", text) for name, text in stack.log_tails()]
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers() -> Servers:
    """The PostgreSQL and the Valkey of this run. Most tests want `database_url` and `redis_url` instead."""
    return running_servers(Path(os.environ[RUN_DIR]))


@pytest.fixture(scope="session")
def postgres_admin(servers: Servers) -> "Iterator[psycopg.Connection]":
    import psycopg

    with psycopg.connect(servers.admin_url, autocommit=True) as connection:
        with locked(Path(os.environ[RUN_DIR]) / "template.lock"):
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (TEMPLATE,)).fetchone()
            if known is None:
                from migrations.run import upgrade

                draft = f"{TEMPLATE}_draft"  # renamed when it is whole
                connection.execute(f"DROP DATABASE IF EXISTS {draft} WITH (FORCE)")
                connection.execute(f"CREATE DATABASE {draft}")
                upgrade(servers.database_url(draft))
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (draft,)
                )
                connection.execute(f"ALTER DATABASE {draft} RENAME TO {TEMPLATE}")
        yield connection


@pytest.fixture
def empty_database_url(servers: Servers, postgres_admin: "psycopg.Connection") -> Iterator[str]:
    """A database of this test's own without any table, for tests of the migrations."""
    yield from _own_database(servers, postgres_admin, "template1")


@pytest.fixture
def database_url(servers: Servers, postgres_admin: "psycopg.Connection") -> Iterator[str]:
    """A migrated, empty database of this test's own, as `postgresql://...`."""
    yield from _own_database(servers, postgres_admin, TEMPLATE)


def _own_database(servers: Servers, admin: "psycopg.Connection", template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield servers.database_url(name)
    admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_admin(servers: Servers) -> "Iterator[redis.Redis]":
    import redis

    with redis.Redis.from_url(servers.redis_url) as client:
        yield client


@pytest.fixture
def redis_url(servers: Servers, redis_admin: "redis.Redis") -> Iterator[str]:
    """A Redis database of this test's own. Channels of pub/sub are the server's: name them by an id of yours."""
    yield from _own_redis(servers, redis_admin)
    if "kombu.pools" in sys.modules:
        # Celery's connections are kept by address for as long as the process lives, and no test has this one again.
        sys.modules["kombu.pools"].reset()


def _own_redis(servers: Servers, admin: "redis.Redis") -> Iterator[str]:
    import redis

    from tests.servers import REDIS_DATABASES

    url = servers.redis_url_of(1 + int(admin.incr("tests")) % (REDIS_DATABASES - 1))
    yield url
    with redis.Redis.from_url(url) as client:
        client.flushdb()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """For tests that start an embedded PostgreSQL: under root its account may enter this, but not `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="cuggu-tests-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting reaches the test from the developer's own environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def offline_settings(clean_environment: None, tmp_path: Path) -> Settings:
    """Settings for tests that speak to no server; the addresses in them answer nobody."""
    return Settings(
        _env_file=None,
        database_url="postgresql://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        data_dir=tmp_path / "data",
    )


@pytest.fixture
def settings(clean_environment: None, database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings with servers behind them. Change some with `settings.model_copy(update={...})`."""
    return Settings(_env_file=None, database_url=database_url, redis_url=redis_url, data_dir=tmp_path / "data")


@pytest.fixture
async def http(settings: Settings) -> "AsyncIterator[httpx.AsyncClient]":
    """The application, as nobody in particular."""
    from contextlib import AsyncExitStack

    from tests.api_client import serve

    async with AsyncExitStack() as stack:
        yield await serve(stack, settings)


@pytest.fixture
def client(http: "httpx.AsyncClient", settings: Settings) -> "Client":
    """A user of the application."""
    from tests.api_client import Client

    return Client(http, settings)


@pytest.fixture
def stranger(http: "httpx.AsyncClient", settings: Settings) -> "Client":
    """Another user of the same application."""
    from tests.api_client import Client

    return Client(http, settings)


@pytest.fixture
def engine(database_url: str) -> "Iterator[Engine]":
    from shared.database import make_engine

    engine = make_engine(database_url, transaction_pooling=False)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: "Engine") -> "Iterator[Session]":
    from sqlalchemy.orm import Session

    with Session(engine) as session:
        yield session


@pytest.fixture
async def async_engine(database_url: str, anyio_backend: str) -> "AsyncIterator[AsyncEngine]":
    from shared.database import make_async_engine

    engine = make_async_engine(database_url, transaction_pooling=False)
    yield engine
    await engine.dispose()


@pytest.fixture
def running_stack(
    request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path
) -> "Iterator[Callable[..., RunningStack]]":
    """Start API, worker and beat as real processes on this test's database, and return when they are ready.

    Takes `env` (settings as environment variables) and whatever else `RunningStack` takes.
    """
    from tests.stack import RunningStack

    stacks = request.node.stash.setdefault(_stacks, [])

    def start(env: Mapping[str, str] | None = None, **options: Any) -> RunningStack:
        addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        name = f"data-{len(stacks) + 1}" if stacks else "data"  # the first shares it with `settings`
        stack = RunningStack(tmp_path / name, {**addresses, **(env or {})}, **options)
        stacks.append(stack)
        stack.begin()
        return stack

    yield start
    for stack in stacks:
        stack.end()


# Not for the whole session: while Playwright is open, its event loop counts as running, and no other can begin.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium, installed now if there is none; each test opens windows of its own in it."""
    from tests.browser import open_browser

    with open_browser(Path(os.environ[RUN_DIR]) / "browser.lock") as browser:
        yield browser


@pytest.fixture(scope="module")
def page_stack(
    servers: Servers,
    postgres_admin: "psycopg.Connection",
    redis_admin: "redis.Redis",
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[PageStack]":
    """An API whose worker the tests play, shared by all tests of the page: they are different people on it."""
    from shared.database import make_engine
    from shared.disk_storage import DiskStorage
    from tests.hand_worker import HandWorker
    from tests.page_stack import SETTINGS, PageStack
    from tests.stack import RunningStack

    for database_url in _own_database(servers, postgres_admin, TEMPLATE):
        for redis_url in _own_redis(servers, redis_admin):
            data_dir = tmp_path_factory.mktemp("page")
            addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
            stack = RunningStack(data_dir, {**addresses, **SETTINGS}, processes=("api",))
            engine = make_engine(database_url, transaction_pooling=False)
            try:
                stack.begin()
                yield PageStack(stack, HandWorker(engine, DiskStorage(stack.data_dir / "objects"), redis_url))
            finally:
                stack.end()
                engine.dispose()


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where pictures of the page are kept for people to look at."""
    folder = Path(".cuggu/screenshots").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
