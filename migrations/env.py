"""Alembic's entry point: the address comes from the caller (migrations/run.py) or from DATABASE_URL."""

from alembic import context

import shared.staff_models  # noqa: F401 - its tables belong to the same metadata
from shared.database import make_engine
from shared.models import Base
from shared.settings import get_settings

LOCK_KEY = 0x6375676775  # any fixed number: two deployments that migrate at once take turns

database_url = context.config.attributes.get("database_url") or get_settings().database_url

engine = make_engine(database_url)
with engine.connect() as connection:
    connection.exec_driver_sql("SET statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_KEY})")
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
# The lock is the session's: it goes with the connection, which must not wait in a pool for the process's end.
engine.dispose()
