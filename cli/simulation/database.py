"""The database of a simulation: a real PostgreSQL, with whatever makes it quick and changes nothing that it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from migrations.run import upgrade
from shared.database import driver_url

if TYPE_CHECKING:
    from cli.simulation.world import World

# Planning costs as much as running such small statements, so each is planned once. Nothing here survives the run.
_OPTIONS = (
    "-c synchronous_commit=off -c jit=off -c lock_timeout=5s -c plan_cache_mode=force_generic_plan -c timezone=UTC"
)
_EMPTY = "TRUNCATE users, loose_objects CASCADE"


class DatabaseAway(OperationalError):
    """The connection was lost, on purpose."""

    def __init__(self) -> None:
        super().__init__("", {}, ConnectionError("the connection was lost"))


def create_database(admin_url: str, name: str) -> str:
    """A migrated database of this name; its address."""
    with create_engine(driver_url(admin_url), isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(text(f'CREATE DATABASE "{name}"'))
    url = make_url(admin_url).set(database=name).render_as_string(hide_password=False)
    upgrade(url)
    return url


def simulation_engine(url: str) -> Engine:
    """Statements are prepared at their first use, and no connection is ever checked: nothing cuts them here."""
    engine = create_engine(
        driver_url(url), connect_args={"options": _OPTIONS, "prepare_threshold": 0, "cursor_factory": _Cursor}
    )
    event.listen(engine, "connect", _prepare_everything)
    return engine


class _Cursor(psycopg.Cursor[Any]):
    """Sends the BEGIN together with the first statement: a round trip is most of what a small statement costs."""

    def execute(self, *words: Any, **options: Any) -> Self:
        if self.connection.info.transaction_status is not TransactionStatus.IDLE or self.connection.autocommit:
            return super().execute(*words, **options)
        with self.connection.pipeline():
            return super().execute(*words, **options)


def _prepare_everything(connection: Any, _record: Any) -> None:
    connection.prepared_max = 1000  # of 100, which are fewer than there are statements


def empty(engine: Engine) -> None:
    """For the next schedule, which must find everything as the first one did, down to the order of rows on disk."""
    with engine.begin() as connection:
        connection.execute(text(_EMPTY))


class SimulatedSessions:
    """A sessionmaker over a database that may be away, and whose processes may die or stop around their commits."""

    def __init__(self, engine: Engine, world: "World") -> None:
        self._writing = sessionmaker(engine, expire_on_commit=False)
        # Who opens a session without a transaction of its own only reads: one round trip instead of three.
        self._reading = sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False)
        self._world = world

    def __call__(self) -> Session:
        self._may_be_away("database away")
        return self._reading()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        self._may_be_away("database away")
        with self._writing() as session:
            yield session
            self._world.may_die()
            self._may_be_away("commit lost")
            session.commit()
        self._may_be_away("commit answer lost")
        self._world.boundary()

    def _may_be_away(self, fault: str) -> None:
        if self._world.dice.strikes(fault):
            raise DatabaseAway


def rows(engine: Engine, statement: str, **parameters: Any) -> list[Any]:
    """What a plain statement of the simulation's own finds, outside any transaction."""
    with engine.connect() as connection:
        return list(connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(statement), parameters))
