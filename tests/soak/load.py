"""The steady load: couples who order at an even pace, follow their jobs, and some of whom delete them afterwards.

Nobody waits for the system: a couple begins when its moment has come, however long the queue is by then.
"""

import asyncio
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx

from tests.chaos.schedules import STYLES, Order, Schedule

DOUBLED_SHARE, CANCELED_SHARE, DELETED_SHARE = 0.05, 0.02, 0.3
WAIT_SECONDS = 25
AGAIN_SECONDS = 1.0  # where nobody listened
ENDED = {"COMPLETED", "PARTIAL", "FAILED", "CANCELED"}


def couple_of(seed: int, number: int) -> Schedule:
    """The `number`th couple, with one job and no faults of its own."""
    dice = random.Random(f"soak {seed} {number}")
    cancel = dice.uniform(0, 10) if dice.random() < CANCELED_SHARE else None
    return Schedule(number, (Order(0, dice.choice(STYLES), dice.random() < DOUBLED_SHARE, cancel),), ())


class Followers:
    """Clients of the page: each waits for its job's end by long polls, looks at its thumbnails, and may delete it."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=WAIT_SECONDS + 10, trust_env=False, verify=False, limits=limits
        )
        self._loop = loop
        self._dice = random.Random("followers")
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, job_id: UUID, headers: Mapping[str, str]) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._begin, job_id, headers, self._dice.random() < DELETED_SHARE)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def _begin(self, job_id: UUID, headers: Mapping[str, str], deletes: bool) -> None:
        task = self._loop.create_task(self._follow(f"/jobs/{job_id}", headers, deletes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, path: str, headers: Mapping[str, str], deletes: bool) -> None:
        job: dict[str, Any] = {}
        while job.get("status") not in ENDED:
            answer = await self._until_answered("GET", f"{path}?wait={WAIT_SECONDS}", headers)
            job = answer.json()
        for photo in job["photos"]:
            if photo["url"]:
                await self._until_answered("GET", f"{photo['url']}/thumbnail", headers)
        if deletes:
            await self._until_answered("DELETE", path, headers)

    async def _until_answered(self, method: str, path: str, headers: Mapping[str, str]) -> httpx.Response:
        while True:
            try:
                answer = await self._http.request(method, path, headers=dict(headers))
            except httpx.TransportError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)


@contextmanager
def followers(url: str) -> Iterator[Followers]:
    """In a thread of their own; whoever still waits at the end is sent away."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="followers", daemon=True)
    thread.start()
    made = Followers(url, loop)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
