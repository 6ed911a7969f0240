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

# A tenth of the event loop's share of a busy core. Slowest hundredth of four polls at once beside uploads: 4.6 ms at
# 10, 3.0 ms at 19, because the kernel hands the core over in pieces of 4 ms and a nicer thread gets fewer. But where
# another process of the same session or cgroup keeps the core busy, 2.5 uploads a second are decoded at 10, 0.9 at 15,
# and at 19 none in 20 s (measured).
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
