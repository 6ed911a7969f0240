"""Threads for what takes long to compute: whoever waits for a short answer goes first."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# A thirtieth of the event loop's share. With 10, a tenth, the slowest hundredth of polls beside uploads took 2.4 times
# as long as without, with 15 1.8 times (measured). More patience would cost where other processes of the same control
# group keep the core busy: such a thread may hold the interpreter's lock, and then everything waits for it.
NICENESS = 15


class PatientThreads:
    """Runs functions beside the event loop, `count` at once; the rest wait without holding a thread."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "patient", initializer=_be_patient)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises. Who is cancelled waits no longer; the function runs to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _be_patient() -> None:
    if sys.platform == "linux":  # elsewhere the priority would be the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
