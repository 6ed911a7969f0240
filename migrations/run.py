"""Migrate a database from Python, as the command line, the embedded stack and the tests do."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str) -> None:
    """Bring the database to the newest revision; nothing to do is no error."""
    command.upgrade(alembic_config(database_url), "head")


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """(the revision the database is at, the newest one there is)."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory(str(Path(__file__).parent)).get_current_head()
