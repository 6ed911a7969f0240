"""Engines for PostgreSQL, and the one clock that all rows are timed by."""

import asyncio
import time
from typing import Any

import psycopg
from sqlalchemy import DateTime, Engine, create_engine, event, func
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.functions import Function

# A connection refused or lost, a statement or a lock that took too long; a pool with nothing to lend. It passes.
PASSING_FAULTS = (OperationalError, InterfaceError, PoolTimeout)
# The newest of migrations/versions/; they are numbered in their order.
SCHEMA_REVISION = "0006"
# A database that does not answer is noticed within this; the kernel's own limit is minutes.
CONNECT_TIMEOUT_SECONDS = 3
# What each of our sessions asks of the server.
SESSION_SETTINGS = {
    # No statement of ours is slow; one that is would hold row locks that others wait for.
    "statement_timeout": "10s",
    # A worker that stands still inside a transaction (stopped, its host gone) must not hold a job's row for hours:
    # the server ends its session, and the kernels notice a peer that is gone.
    "idle_in_transaction_session_timeout": "10s",
    "TimeZone": "UTC",
}
# A connection that was used this short a while ago is taken to live.
TRUSTED_SECONDS = 1.0
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVES = 10, 5, 3


def db_now() -> Function[DateTime]:
    """The database's clock, by which all leases and deadlines run: workers' clocks may differ from each other.

    `cuggu_now()` is our own SQL function over `now()`, so that a simulation can put a virtual clock in its place.
    """
    return func.cuggu_now(type_=DateTime(timezone=True))


def driver_url(database_url: str) -> str:
    """`postgresql://...` with the driver we use, psycopg 3, written into it."""
    return make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


async def database_fault(database_url: str, within_seconds: float = 2.0) -> str | None:
    """What is wrong with the database as somebody new to it finds it; None when nothing is.

    A schema that is older than this release is a fault. A newer one is none: releases run on the next one's tables.

    By a connection of its own, because one from a pool cannot be given up while a server that hangs owes it an answer.
    """
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        async with asyncio.timeout(within_seconds):
            async with await psycopg.AsyncConnection.connect(url, application_name="cuggu") as connection:
                found = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
    except TimeoutError:
        return f"no answer within {within_seconds:g} s"
    except psycopg.errors.UndefinedTable:
        found = None
    except (psycopg.Error, OSError) as error:
        return str(error)
    revision = found[0] if found else None
    if revision is None or revision < SCHEMA_REVISION:
        return f"the database has not been migrated: it is at {revision}, and this release needs {SCHEMA_REVISION}"
    return None


def _connect_args(transaction_pooling: bool) -> dict[str, object]:
    args: dict[str, object] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVES,
        "application_name": "cuggu",
    }
    if transaction_pooling:
        # Each transaction may run on another of the pooler's connections: statements that were prepared on one are not
        # there, and what a session asks for cannot be sent. The database itself must ask for it (docs/operations.md).
        return args | {"prepare_threshold": None}
    keepalives = {
        "tcp_keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "tcp_keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "tcp_keepalives_count": KEEPALIVES,
    }
    return args | {"options": " ".join(f"-c {name}={value}" for name, value in (SESSION_SETTINGS | keepalives).items())}


def _look_after_rests(engine: Engine) -> Engine:
    """Ask a connection that has rested whether it still lives, and if not, replace it and all that are as old.

    SQLAlchemy's `pool_pre_ping` would ask at every checkout: another round trip for every short transaction.
    """

    @event.listens_for(engine, "checkin")
    def note(_: object, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ask(dbapi_connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        rests_since = record.info.get("rests_since")
        if rests_since is None or time.monotonic() - rests_since < TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(dbapi_connection)
        except engine.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            raise InvalidatePoolError from error

    return engine


def make_engine(database_url: str, *, transaction_pooling: bool, pool_size: int = 5) -> Engine:
    """For workers and the command line. Connections that died with a server while they rested are replaced."""
    engine = create_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        hide_parameters=True,  # an error's text goes to the log, and a parameter may be somebody's address
        connect_args=_connect_args(transaction_pooling),
    )
    return _look_after_rests(engine)


def make_async_engine(database_url: str, *, transaction_pooling: bool, pool_size: int = 10) -> AsyncEngine:
    """For the API."""
    engine = create_async_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,  # seconds; a request that waits longer for a connection is better refused
        hide_parameters=True,  # an error's text goes to the log, and a parameter may be somebody's address
        connect_args=_connect_args(transaction_pooling),
    )
    _look_after_rests(engine.sync_engine)
    return engine
