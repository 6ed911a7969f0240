"""The pool's connections after their server has ended them."""

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from shared import database
from tests.waiting import wait_until


def end_connections(server: psycopg.Connection, engine: Engine) -> None:
    """All of the engine's connections, from outside, as a restart or a fail-over does."""
    with engine.connect() as connection:
        name = connection.scalar(text("SELECT current_database()"))
    others = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    server.execute(f"SELECT pg_terminate_backend(pid) {others}", (name,))
    wait_until(lambda: server.execute(f"SELECT count(*) {others}", (name,)).fetchone() == (0,))


@pytest.fixture
def ended(engine: Engine, database_url: str) -> Engine:
    """An engine whose only connection, back in the pool, does not live any more."""
    with psycopg.connect(database_url, autocommit=True) as server:
        end_connections(server, engine)
    return engine


def test_a_connection_that_died_while_it_rested_is_replaced(ended: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "TRUSTED_SECONDS", 0)
    with ended.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_a_connection_used_just_now_is_not_asked_first(ended: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it saves a round trip for: the statement itself finds out, and the next one has a new connection."""
    monkeypatch.setattr(database, "TRUSTED_SECONDS", 3600)
    with pytest.raises(OperationalError), ended.connect() as connection:
        connection.execute(text("SELECT 1"))
    with ended.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
