"""For commands that say themselves, in sentences, what the parts that they call would log."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def unlogged() -> Iterator[None]:
    """No event of ours is logged in the block; by default they would stand amid the command's own output."""

    def drop(*_: object) -> str:
        raise structlog.DropEvent

    earlier = structlog.get_config()
    structlog.configure(processors=[drop])
    try:
        yield
    finally:
        structlog.configure(**earlier)
