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

# A tenth of the event loop's share of a busy core. More patience does not help the polls: they wait for the end of the
# kernel's time slice, some 3 ms, whatever the niceness. And it would cost where other processes keep the core busy, for
# such a thread may hold the interpreter's lock, and then everything waits for it. Slowest hundredth of the polls beside
# uploads on such a core: 26 ms at 0, 17 ms at 10, 53 ms at 15 (measured).
NICENESS = 10


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
