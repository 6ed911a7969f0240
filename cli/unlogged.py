"""For commands that say themselves, in sentences, what the parts that they call would log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def unlogged() -> Iterator[None]:
    """Nothing is logged in the block, by us or by a library: it would stand amid the command's own output."""

    def drop(*_: object) -> str:
        raise structlog.DropEvent

    earlier = structlog.get_config()
    structlog.configure(processors=[drop])
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**earlier)
