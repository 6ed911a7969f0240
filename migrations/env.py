"""Alembic's entry point: the address comes from the caller (migrations/run.py) or from DATABASE_URL.

It migrates beside a system that works: no lock is waited for longer than others can wait behind it.
"""

import logging
import time

from alembic import context
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

import shared.deletion_models
import shared.staff_models  # noqa: F401 - the tables of both belong to the same metadata
from migrations.beside_work import LOCK_TIMEOUT_SECONDS
from shared.database import make_engine
from shared.models import Base
from shared.settings import get_settings

LOCK_KEY = 0x6375676775  # any fixed number: two deployments that migrate at once take turns
AGAIN_SECONDS = 1.0  # in which those go on who had to wait behind us
PATIENCE_SECONDS = 300.0

log = logging.getLogger("alembic.runtime.migration")


def _address() -> str:
    if given := context.config.attributes.get("database_url"):
        return str(given)
    settings = get_settings()
    if settings.database_transaction_pooling:
        # A session's lock taken there would stay with a connection of the pooler's.
        raise SystemExit(
            "Migrate past the pooler: DATABASE_URL of PostgreSQL itself, DATABASE_TRANSACTION_POOLING=false."
        )
    return settings.database_url


def _migrate() -> None:
    """A migration that got no lock comes again: it is a transaction of its own, or may be repeated."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        connection.commit()
        try:
            with context.begin_transaction():
                context.run_migrations()
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable) or time.monotonic() > deadline:
                raise
            connection.rollback()
            log.warning("a table is in use; trying again")
            time.sleep(AGAIN_SECONDS)
        else:
            return


engine = make_engine(_address(), transaction_pooling=False)
with engine.connect() as connection:
    connection.exec_driver_sql("SET statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_KEY})")
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    _migrate()
# The lock is the session's: it goes with the connection, which must not wait in a pool for the process's end.
engine.dispose()
