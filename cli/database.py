"""The database for commands that look into it; that it is away or not ours is said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from cli.configuration import stop
from shared.database import make_engine
from shared.settings import Settings


@contextmanager
def database_of(settings: Settings) -> Iterator[Engine]:
    """An engine for the block; database trouble inside it ends the command with a sentence."""
    engine = make_engine(settings.database_url, pool_size=1, transaction_pooling=settings.database_transaction_pooling)
    try:
        yield engine
    except OperationalError as error:
        raise stop(f"The database does not answer: {_first_line(error)}") from None
    except ProgrammingError as error:
        raise stop(f"The database is not as it should be; `cuggu doctor` says more. {_first_line(error)}") from None
    finally:
        engine.dispose()


def _first_line(error: OperationalError | ProgrammingError) -> str:
    return str(error.orig).splitlines()[0]
