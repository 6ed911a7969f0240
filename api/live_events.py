"""Follow jobs' events as they happen: one reader for the whole process, however many clients wait.

A client that waits costs a place in a table here, and neither a timer nor a look at the database of its own. Notes say
which jobs have changed; of many that changed together one statement reads what is new.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, islice
from operator import attrgetter
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.changes import JobChanges
from api.event_view import Event, read_new_events
from api.job_view import read_ended_jobs

# nginx, its Kubernetes ingress and AWS's balancer cut a connection that was silent for 60 s, Heroku's router for 55.
QUIET_SECONDS = 50
# All jobs that are followed are looked at this often, because a note may be lost; more often while none come.
LOOK_AGAIN_SECONDS = 20.0
LOOK_AGAIN_WITHOUT_NOTES_SECONDS = 2.0
JOBS_PER_READ = 500
DATABASE_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


class Follower:
    """One client's place in one job's events."""

    __slots__ = ("_events", "_wake", "job_id", "language", "over", "seen")

    def __init__(self, job_id: UUID, seen: int, language: str) -> None:
        self.job_id = job_id
        self.seen = seen  # the id of the last event that was handed on
        self.language = language
        self.over = False  # no more will come than what is here
        self._events: list[Event] = []
        self._wake: asyncio.Future[None] | None = None

    async def next(self) -> Sequence[Event] | None:
        """The next events: none when nothing happened for about `QUIET_SECONDS`. None when no more will come."""
        if not self._events and not self.over:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if self.over and not self._events:
            return None
        events, self._events = self._events, []
        return events

    def hand(self, event: Event) -> None:
        self._events.append(event)
        self.seen = event.id
        self.over = event.is_last
        self.wake()

    def leave(self) -> None:
        """No more is wanted."""
        self.over = True
        self._events.clear()
        self.wake()

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


_seen = attrgetter("seen")


class _Followed:
    """A job, and whoever follows it."""

    __slots__ = ("followers", "job_id")

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        self.followers: set[Follower] = set()


class LiveEvents:
    def __init__(self, engine: AsyncEngine, changes: JobChanges) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # single reads need no transaction
        self._changes = changes
        self._jobs: dict[UUID, _Followed] = {}
        # Those that a note named or a client has just come for: in order, and each once.
        self._changed: dict[_Followed, None] = {}
        # Those still to be looked at because a note may be lost, or because the last look failed.
        self._unsure: Iterator[_Followed] = iter(())
        self._news = asyncio.Event()
        self._ending = False
        # Everybody's quiet seconds end at another moment: thousands of pings at once would hold up what is real.
        self._rounds: list[set[Follower]] = [set() for _ in range(QUIET_SECONDS)]
        self._next_round = count()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        changes.hand_on(self._hear)

    async def start(self) -> None:
        self._tasks = (asyncio.create_task(self._read_on()), asyncio.create_task(self._wake_in_turn()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        """Let all go, for the server stops: whoever comes back goes on where it was, at another process."""
        self._ending = True
        for job in self._jobs.values():
            for follower in job.followers:
                follower.over = True
                follower.wake()

    @contextmanager
    def following(self, job_id: UUID, after: int, language: str) -> Iterator[Follower]:
        """Hand on what happened after the event with this id, and what happens from now on."""
        follower = Follower(job_id, after, language)
        follower.over = self._ending
        in_turn = self._rounds[next(self._next_round) % QUIET_SECONDS]
        in_turn.add(follower)
        job = self._jobs.setdefault(job_id, _Followed(job_id))
        job.followers.add(follower)
        self._hear(job_id)
        try:
            yield follower
        finally:
            in_turn.discard(follower)
            job.followers.discard(follower)
            if not job.followers:
                del self._jobs[job_id]

    def _hear(self, job_id: UUID | None) -> None:
        if job_id is None:
            self._unsure = iter(list(self._jobs.values()))
        elif job := self._jobs.get(job_id):
            self._changed[job] = None
        self._news.set()

    async def _wake_in_turn(self) -> None:
        while True:
            for in_turn in self._rounds:
                await asyncio.sleep(1)
                for follower in in_turn:
                    follower.wake()

    async def _read_on(self) -> None:
        looked_at_all = time.monotonic()
        while True:
            every = LOOK_AGAIN_SECONDS if self._changes.listening else LOOK_AGAIN_WITHOUT_NOTES_SECONDS
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 swallows a cancellation that comes together with the news (seen).
                async with asyncio.timeout(looked_at_all + every - time.monotonic()):
                    await self._news.wait()
            self._news.clear()
            if time.monotonic() >= looked_at_all + every:
                looked_at_all = time.monotonic()
                self._hear(None)
            while jobs := self._take():
                try:
                    await self._read(jobs)
                except (SQLAlchemyError, OSError) as error:
                    log.warning("events.unread", jobs=len(jobs), error=str(getattr(error, "orig", None) or error))
                    self._unsure = iter([*self._unsure, *jobs])  # behind the news, which may be read well
                    await asyncio.sleep(DATABASE_AGAIN_SECONDS)
                except Exception as error:
                    log.error("events.unread", jobs=len(jobs), exc_info=error)

    def _take(self) -> Sequence[_Followed]:
        """Jobs to be read next, news first. Taken before the look: what changes during it is looked at again."""
        jobs = list(islice(self._changed or self._unsure, JOBS_PER_READ))
        for job in jobs if self._changed else ():
            del self._changed[job]
        return jobs

    async def _read(self, jobs: Sequence[_Followed]) -> None:
        after = {job.job_id: min(map(_seen, job.followers)) for job in jobs if job.followers}
        if not after:
            return
        async with self._engine.connect() as connection:
            events = await read_new_events(connection, after)
            ended = await read_ended_jobs(connection, [event.job_id for event in events if event.is_last])
        for event in events:
            job = self._jobs.get(event.job_id)
            for follower in job.followers if job else ():
                # Who came during the look from further back was not asked for, and has a look of its own before it.
                if after[event.job_id] <= follower.seen < event.id and not follower.over:
                    tell = ended.get(event.job_id) if event.is_last else None
                    follower.hand(replace(event, data=tell(follower.language)) if tell else event)
