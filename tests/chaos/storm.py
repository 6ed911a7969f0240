"""The storm: schedules in waves over one running world, struck as their seeds say, until all their jobs have ended.

A wave of schedules begins together and shares the processes that are killed and started again; when its faults are
over it is left in peace, and the next wave begins once its jobs have ended. Jobs that take longer, as behind a
prediction that hangs, are waited for beside the waves that follow.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from uuid import UUID

import psycopg

from tests.chaos.checker import Violation
from tests.chaos.couples import Couple
from tests.chaos.schedules import Fault, Schedule
from tests.chaos.systems import End
from tests.chaos.world import World

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.3  # between looks at which jobs have ended
ABSENT_SECONDS = 60.0  # what is to be struck, and is not there just now, is waited for this long


@dataclass
class Struck:
    """A fault that struck. Times are seconds since the epoch."""

    fault: Fault
    at: float
    over_at: float | None = None  # None while it lasts

    @property
    def counts_from(self) -> float:
        """A blow, and a stopped worker, is to be recovered from at once; what is away, once it is back."""
        lasting = self.fault.seconds > 0 and self.fault.act != "SIGSTOP"
        return (self.over_at or time.time()) if lasting else self.at


@dataclass
class Course:
    """One schedule, and what became of it."""

    schedule: Schedule
    couple: Couple
    began: float  # time.monotonic
    to_come: list[Fault]
    struck: list[Struck] = field(default_factory=list)
    missed: list[Fault] = field(default_factory=list)  # what it was meant for was never there
    ends: dict[UUID, End] = field(default_factory=dict)
    given_up: bool = False  # some of its jobs had not ended when the patience was over

    @property
    def lasting(self) -> bool:
        return any(one.over_at is None for one in self.struck)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        over = not (self.couple.busy or self.to_come or self.lasting)
        return over and all(job in self.ends for job in self.couple.job_ids)

    @property
    def waiting_since(self) -> float | None:
        """Seconds since the epoch: the last fault, or the last acceptance; None while there is more to come."""
        if self.couple.busy or self.to_come or self.lasting:
            return None
        faults = [one.over_at or one.at for one in self.struck]
        return max([*faults, *(receipt.accepted_at for receipt in self.couple.receipts)], default=0.0)


class Storm:
    def __init__(
        self,
        world: World,
        threads: Executor,
        portrait: bytes,
        *,
        wave: int,
        peace_seconds: float,
        patience_seconds: float,
        glance: Callable[[World], list[Violation]],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`peace_seconds`: so long after its last fault a wave is waited for before the next one begins.
        `patience_seconds`: a job that has not ended so long after the last fault of its schedule is stuck.

        `glance` looks after every wave at what must hold at any moment; what it finds is kept in `glimpsed`.
        """
        self.glimpsed: list[Violation] = []
        self._world, self._threads, self._portrait = world, threads, portrait
        self._wave, self._peace_seconds, self._patience_seconds = wave, peace_seconds, patience_seconds
        self._glance, self._tell = glance, tell
        self._open: list[Course] = []
        self._looked_at = 0.0

    def rage(self, schedules: Iterable[Schedule]) -> list[Course]:
        """Let all schedules happen, and their jobs end. Use it from the main thread."""
        courses: list[Course] = []
        for wave in _batches(schedules, self._wave):
            now = time.monotonic()
            begun = [self._begin(schedule, now) for schedule in wave]
            courses += begun
            self._until(partial(self._may_go_on, begun))
            self.glimpsed += self._glance(self._world)
            done = sum(course.ended or course.given_up for course in courses)
            self._tell(f"{len(courses)} schedules begun, {done} ended")
        self._until(lambda: not self._open)
        for course in courses:
            course.couple.ask_again()
        self._until(lambda: not any(course.couple.busy for course in courses))
        for course in courses:
            course.couple.raise_for_defects()
            course.couple.close()
        return courses

    def tend_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Go on looking after the world until the condition holds; whether it did in time."""
        deadline = time.monotonic() + seconds
        while not (held := condition()) and time.monotonic() < deadline:
            self._world.tend()
            time.sleep(LOOK_SECONDS)
        return held

    def _begin(self, schedule: Schedule, now: float) -> Course:
        couple = Couple(schedule, self._world.door, self._portrait, self._threads)
        couple.begin()
        faults = sorted(schedule.faults, key=lambda fault: fault.after_seconds)
        course = Course(schedule, couple, now, [fault for fault in faults if self._world.has(fault)])
        course.missed += [fault for fault in faults if not self._world.has(fault)]
        self._open.append(course)
        return course

    def _may_go_on(self, wave: Sequence[Course]) -> bool:
        if all(course.ended or course.given_up for course in wave):
            return True
        since = [course.waiting_since for course in wave]
        return all(at is not None and time.time() - at > self._peace_seconds for at in since)

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._world.tend()
            for course in self._open:
                self._weather(course)
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._look()
            time.sleep(TICK_SECONDS)

    def _weather(self, course: Course) -> None:
        """Strike what is due, and lift what is over."""
        age = time.monotonic() - course.began
        for fault in [fault for fault in course.to_come if fault.after_seconds <= age]:
            if self._world.strike(fault):
                now = time.time()
                course.struck.append(Struck(fault, now, None if fault.seconds else now))
                course.to_come.remove(fault)
            elif age > fault.after_seconds + ABSENT_SECONDS:
                course.missed.append(fault)
                course.to_come.remove(fault)
        for one in course.struck:
            if one.over_at is None and time.time() - one.at >= one.fault.seconds:
                self._world.lift(one.fault)
                one.over_at = time.time()

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        waiting = [job for course in self._open for job in course.couple.job_ids if job not in course.ends]
        try:
            ends = self._world.system.ends(self._world.database_url, waiting) if waiting else {}
        except psycopg.OperationalError:
            return
        for course in list(self._open):
            course.ends |= {job: ends[job] for job in course.couple.job_ids if job in ends}
            since = course.waiting_since
            course.given_up = since is not None and time.time() - since > self._patience_seconds and not course.ended
            if course.ended or course.given_up:
                self._open.remove(course)


def _batches(schedules: Iterable[Schedule], size: int) -> Iterator[list[Schedule]]:
    left = iter(schedules)
    while batch := list(islice(left, size)):
        yield batch
