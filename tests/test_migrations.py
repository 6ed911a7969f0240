"""Migrations run beside a system that works, and a system works on tables that are ahead of it."""

import asyncio
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect

from api.auth import development_token
from migrations.run import alembic_config, upgrade
from shared.database import SCHEMA_REVISION, database_fault
from shared.models import Base
from shared.settings import Settings
from tests.photos import one_face
from tests.stack import RunningStack
from tests.waiting import wait_until

# What reads or rewrites a whole table under a lock that others wait for, and how it is done beside them.
SLOW = {
    r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)\S+ ON (\S+)": "beside_work.py: create_index",
    r"ALTER TABLE (\S+) .*ADD (?:CONSTRAINT|CHECK|FOREIGN KEY|UNIQUE)(?!.*NOT VALID)": "beside_work.py: add_check",
    r"ALTER TABLE (\S+) ALTER COLUMN \S+ (?:TYPE|SET NOT NULL)": "a new column beside the old one",
}
# Old workers go on while and after it runs.
CONTRACTING = r"DROP TABLE|DROP COLUMN|RENAME (?:TO|COLUMN)"


@pytest.mark.anyio
async def test_a_release_is_not_ready_before_its_migrations(empty_database_url: str) -> None:
    config = alembic_config(empty_database_url)
    *_, newest = sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())
    assert newest == SCHEMA_REVISION == ScriptDirectory.from_config(config).get_current_head()
    assert "it is at None" in str(await database_fault(empty_database_url))
    await asyncio.to_thread(command.upgrade, config, "head")
    assert await database_fault(empty_database_url) is None
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert "it is at 0001" in str(await database_fault(empty_database_url))
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert await database_fault(empty_database_url) is None, "an older release goes on beside the next one's tables"


@pytest.fixture
def statements_by_revision(empty_database_url: str) -> dict[str, list[str]]:
    """What each migration executes, on one line each."""
    config = alembic_config(empty_database_url)
    seen: defaultdict[str, list[str]] = defaultdict(list)
    for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):

        def note(_: object, __: object, statement: str, *___: object, revision: str = script.revision) -> None:
            seen[revision].append(" ".join(statement.split()))

        event.listen(Engine, "before_cursor_execute", note)
        try:
            command.upgrade(config, script.revision)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    return seen


def test_no_migration_reads_or_rewrites_a_table_that_others_wait_for(
    statements_by_revision: dict[str, list[str]],
) -> None:
    assert len(statements_by_revision) >= 3
    for revision, statements in statements_by_revision.items():
        new = {name for line in statements for name in re.findall(r"^CREATE TABLE (\w+)", line)}
        for line in statements:
            for pattern, instead in SLOW.items():
                if (found := re.search(pattern, line)) and found[1] not in new:
                    pytest.fail(f"{revision}: {line}\nInstead: {instead}")
            assert not re.search(CONTRACTING, line), f"{revision} takes away what old workers use: {line}"


def test_the_migrations_lead_to_the_tables_of_the_models(empty_database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from sqlalchemy import create_engine

    from shared.database import driver_url

    upgrade(empty_database_url)
    engine = create_engine(driver_url(empty_database_url))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        unvalidated = connection.exec_driver_sql("SELECT conname FROM pg_constraint WHERE NOT convalidated").all()
        invalid = connection.exec_driver_sql("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").all()
    engine.dispose()
    assert (unvalidated, invalid) == ([], [])


def test_a_migration_waits_for_a_table_without_keeping_others_from_it(empty_database_url: str) -> None:
    config = alembic_config(empty_database_url)
    command.upgrade(config, "0002")
    migrating = threading.Thread(target=upgrade, args=(empty_database_url,))
    with (
        psycopg.connect(empty_database_url) as reader,
        psycopg.connect(empty_database_url, autocommit=True, options="-c lock_timeout=30s") as others,
    ):
        reader.execute("SELECT * FROM photos")  # as a report would, in a transaction that stays open
        migrating.start()
        # The migration asks for the table, gives up, and lets through whoever came after it.
        wait_until(lambda: _waits_for_a_lock(others), 30)
        others.execute("SELECT * FROM photos")
        others.execute("UPDATE photos SET slot = slot")
        assert migrating.is_alive()
        reader.rollback()
        migrating.join(60)
        assert not migrating.is_alive()
        [(revision,)] = others.execute("SELECT version_num FROM alembic_version").fetchall()
    assert revision == ScriptDirectory.from_config(config).get_current_head()


def _waits_for_a_lock(server: psycopg.Connection) -> bool:
    found = server.execute(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return found.fetchone() is not None


def test_an_index_that_an_earlier_try_left_unfinished_is_built_anew(empty_database_url: str) -> None:
    config = alembic_config(empty_database_url)
    command.upgrade(config, "0002")
    with psycopg.connect(empty_database_url, autocommit=True) as server:
        server.execute("CREATE INDEX ix_jobs_completed ON jobs (id)")
        server.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_jobs_completed'::regclass")
        upgrade(empty_database_url)
        [(valid, definition)] = server.execute(
            "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index "
            "WHERE indexrelid = 'ix_jobs_completed'::regclass"
        ).fetchall()
    assert valid
    assert "(style, completed_at)" in definition


def test_migrating_through_a_pooler_is_refused(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> None:
    from shared.settings import get_settings

    for name, value in {
        "DATABASE_URL": empty_database_url,
        "REDIS_URL": "redis://",
        "DATABASE_TRANSACTION_POOLING": "1",
    }.items():
        monkeypatch.setenv(name, value)
    config = alembic_config(empty_database_url)
    del config.attributes["database_url"]
    get_settings.cache_clear()
    try:
        with pytest.raises(SystemExit, match="DATABASE_TRANSACTION_POOLING=false"):
            command.upgrade(config, "head")
    finally:
        get_settings.cache_clear()


# --- Old workers meet new rows


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_runs_goes_on_while_and_after_the_tables_are_expanded(
    running_stack: Callable[..., RunningStack], engine: Engine, settings: Settings
) -> None:
    """The next release's expansion: every table gets columns, there are new tables, indexes, constraints."""
    stack = running_stack(env={"SUBMISSIONS_PER_WINDOW": "100", "SIGNUP_CREDITS": "100"})
    with _submitting(stack, settings) as completed:
        wait_until(lambda: completed() >= 4, 120)  # by now all statements have been prepared
        before = completed()
        for table in inspect(engine).get_table_names():
            with psycopg.connect(settings.database_url, options="-c lock_timeout=20s") as server:
                server.execute(f"ALTER TABLE {table} ADD COLUMN next_release text")
                server.execute(f"ALTER TABLE {table} ADD COLUMN next_default integer NOT NULL DEFAULT 7")
                server.execute(f"ALTER TABLE {table} ADD CONSTRAINT next_{table} CHECK (next_default > 0) NOT VALID")
                server.execute(f"CREATE TABLE next_{table} (id bigint PRIMARY KEY)")
        wait_until(lambda: completed() >= before + 4, 120)
    for name in ("api", "worker", "beat"):
        assert "Traceback" not in stack.logs(name), stack.logs(name)[-3000:]
    with psycopg.connect(settings.database_url) as server:
        ends = server.execute("SELECT status, next_default, count(*) FROM jobs GROUP BY 1, 2").fetchall()
    assert [(status, default) for status, default, _ in ends] == [("COMPLETED", 7)]


@contextmanager
def _submitting(stack: RunningStack, settings: Settings) -> Iterator[Callable[[], int]]:
    """Somebody orders one job after the other; how many were completed."""
    over, completed, failures = threading.Event(), [0], list[str]()
    headers = {"Authorization": f"Bearer {development_token(settings, 'couple@example.com')}"}

    def order() -> None:
        with httpx.Client(base_url=stack.api_url, headers=headers, timeout=30, trust_env=False) as http:
            while not over.is_set():
                answer = http.post("/jobs", files={"image": one_face()}, data={"style": "CLASSIC"})
                job = answer.json()
                while answer.is_success and job["completed_at"] is None:
                    answer = http.get(f"/jobs/{job['id']}?wait=10")
                    job = answer.json()
                if not answer.is_success or job["status"] != "COMPLETED":
                    failures.append(answer.text)
                    return
                completed[0] += 1

    thread = threading.Thread(target=order)
    thread.start()
    try:
        yield lambda: completed[0]
    finally:
        over.set()
        thread.join(60)
    assert failures == []
