"""Changes of large tables while the system works: nothing here keeps others from reading or writing for long.

For tables that exist already; a new table's indexes and constraints cost nothing. Each call commits what stands before
it, and may be repeated. So what stands before it in a migration must be repeatable too (`if_not_exists`).
"""

from collections.abc import Mapping, Sequence

from alembic import op
from sqlalchemy import text

# Whoever waits for a table's lock lets everybody else wait who comes after, readers too.
LOCK_TIMEOUT_SECONDS = 2


def create_index(
    name: str,
    table: str,
    columns: Sequence[str],
    *,
    include: Sequence[str] = (),
    ops: Mapping[str, str] | None = None,
    where: str | None = None,
    unique: bool = False,
) -> None:
    """An index that is built while rows are written, or built anew if an earlier try left it unfinished."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for those who came before, and nobody waits for it
        op.drop_index(name, table_name=table, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            columns,
            unique=unique,
            postgresql_include=include,
            postgresql_ops=ops or {},
            postgresql_where=text(where) if where else None,
            postgresql_concurrently=True,
        )
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")


def add_check(name: str, table: str, condition: str) -> None:
    """A constraint that new rows are held to at once; old ones are looked at under a lock that lets others work.

    It takes the place of the one of this name, if there is one.
    """
    with op.get_context().autocommit_block():
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
        )
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
