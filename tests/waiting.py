"""Waiting for what is to happen, and never for a time to pass: a condition, a line of a process, a thread's doing."""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from socket import socket
from typing import IO, TypeVar

Found = TypeVar("Found")
LOOK_SECONDS = 0.02  # between two looks


def wait_until(condition: Callable[[], Found], seconds: float = 20) -> Found:
    """What the condition says once it holds. Raises AssertionError with what it said last."""
    deadline = time.monotonic() + seconds
    while not (said := condition()):
        assert time.monotonic() < deadline, f"it did not come true in {seconds:g} s: {said!r}"
        time.sleep(LOOK_SECONDS)
    return said


async def until(condition: Callable[[], Found | Awaitable[Found]], seconds: float = 20) -> Found:
    """What the condition, a coroutine perhaps, says once it holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            said = condition()
            if isawaitable(said):
                said = await said
            if said:
                return said
            await asyncio.sleep(LOOK_SECONDS / 2)


def readable(file: IO[bytes] | socket, timeout_seconds: float) -> bool:
    """Whether something can be read from it, or it has ended, within that time.

    `select.select` would refuse descriptors above 1023, which a long run of tests reaches.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(timeout_seconds))
