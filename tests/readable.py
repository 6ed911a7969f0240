"""Waiting for a descriptor of any number: `select.select` refuses those above 1023, which a long test run reaches."""

import selectors
from socket import socket
from typing import IO


def readable(file: IO[bytes] | socket, timeout_seconds: float) -> bool:
    """Whether something can be read from it, or it has ended, within that time."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(timeout_seconds))
