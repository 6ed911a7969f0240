"""One schedule: users, workers, messages, webhooks and sweeps in virtual time, with faults as the dice fall.

Everything runs on one thread. A process that is slow or stands still in the middle of a step lets the rest of the
world go on inside it, and then goes on itself: this is how steps overlap, in an order that the seed decides.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli.simulation.clock import Clock
from cli.simulation.database import DatabaseAway, SimulatedSessions, empty, rows
from cli.simulation.dice import Dice
from cli.simulation.messages import Message, NobodyListens, SimulatedQueue, SimulatedWebhooks
from cli.simulation.people import People
from cli.simulation.provider import SimulatedProvider
from cli.simulation.storage import SimulatedStorage
from shared import leases
from shared.errors import StorageUnavailable
from shared.leases import Claim, LeaseLost
from shared.settings import Settings
from worker import retention, sweeper
from worker.closing import Closing
from worker.generation import Generation

FAULTS_SECONDS = 150.0  # then the weather is calm, and everything must come to its end
END_SECONDS = FAULTS_SECONDS + 7200.0
SWEEP_SECONDS = 2.0
NESTING_MAX = 2  # processes that wait or stand still inside each other
INSTANT_SECONDS = 0.001

# What is in work, when the sweep will find something, and when an object is to be deleted. The sweep looks every
# second in truth; here it does when there is something to be found.
_LOOK = """
SELECT
    (SELECT count(*) FROM jobs WHERE completed_at IS NULL) + (SELECT count(*) FROM attempts WHERE close_due_at
        IS NOT NULL) + (SELECT count(*) FROM loose_objects)
        + (SELECT count(*) FROM jobs WHERE portrait_deleted_at IS NULL) AS unfinished,
    (SELECT count(*) FROM jobs WHERE status = 'FAILED') AS failed,
    extract(epoch FROM least(
        (SELECT min(greatest(next_check_at, coalesce(sent_at + :resend * interval '1 s', next_check_at)))
            FROM photos WHERE status IN ('PENDING', 'GENERATING')),
        (SELECT min(deadline_at) FROM jobs WHERE status IN ('QUEUED', 'PROCESSING')),
        (SELECT min(close_due_at) FROM attempts)
    ) - cuggu_now())::float AS sweep_in,
    extract(epoch FROM (SELECT min(delete_after) FROM loose_objects) - cuggu_now())::float AS delete_in,
    extract(epoch FROM (SELECT min(completed_at) FROM jobs WHERE portrait_deleted_at IS NULL)
        + :portrait * interval '1 s' - cuggu_now())::float AS expire_in
"""


class Died(BaseException):
    """The process is killed here: nothing below may catch it."""


@dataclass(eq=False)
class Lease:
    """The lease that a running step keeps: who is slow renews it, who stands still does not."""

    renew: Callable[[], None]
    every_seconds: float
    next_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedGeneration(Generation):
    """The real one, whose steps keep their leases in virtual time."""

    keep_lease: Callable[[Claim], AbstractContextManager[None]]

    def _keeping(self, claim: Claim) -> AbstractContextManager[object]:
        return self.keep_lease(claim)


@dataclass
class World:
    engine: Engine
    clock: Clock
    settings: Settings
    seed: int
    messages: list[Message] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        empty(self.engine)
        self.clock.restart()
        self.last_fault_at = self.clock.now
        self.dice = Dice(self.seed)
        self.dice.on_fault = self._note_fault
        self.people = People(self)
        self.webhooks = SimulatedWebhooks(self)
        # Each of these stands where the real one does, and does as much of it as the use cases ask for.
        self.provider = SimulatedProvider(self)
        self.storage = SimulatedStorage(self)
        self.queue = cast(Any, SimulatedQueue(self))
        self.sessions = cast(Any, SimulatedSessions(self.engine, self))
        self.notes = cast(Any, NobodyListens())
        self.generation = SimulatedGeneration(
            self.sessions, self.storage, self.provider, self.notes, self.settings, keep_lease=self._keep_lease
        )
        self.closing = Closing(self.sessions, self.provider, self.settings)
        self._nesting = 0
        self._restarts = 0
        self._sweep_beside = False
        self._lease: Lease | None = None  # of the step that is running
        self._kept: list[Lease] = []  # of steps that wait
        self._next_look_at = 0.0  # beat's
        self._failed_jobs = 0

    def run(self) -> None:
        """The whole schedule, until nothing is left to do."""
        self.people.arrive()
        while self._go_on(END_SECONDS):
            if self.clock.seconds >= END_SECONDS:
                self.violations.append("I5: something was still in work at the very end")
                return

    # --- Faults of processes

    def boundary(self) -> None:
        """Between two effects: here a process may be killed, or stand still while the world goes on."""
        self.may_die()
        if self._sweep_beside:
            self._sweep_beside = False
            self.alive(self._sweep)
        if self.dice.strikes("process stands still"):
            self._let_pass(self.dice.chance.uniform(1, 60), alive=False)

    def may_die(self) -> None:
        if self.dice.strikes("process dies"):
            raise Died

    def wait(self, seconds: float) -> None:
        """The calling process waits for somebody, and keeps its lease meanwhile."""
        self._let_pass(seconds, alive=True)

    def alive(self, step: Callable[[], None]) -> None:
        """Run one step of some process, to its end or to the process's."""
        try:
            step()
        except (Died, StorageUnavailable, DatabaseAway):
            pass
        except Exception as error:  # noqa: BLE001 - whatever the product may not let out
            self.violations.append(f"a step ended in an error of ours: {error!r}")

    def _let_pass(self, seconds: float, *, alive: bool) -> None:
        if self._nesting == NESTING_MAX:
            return
        lease, restarts = self._lease, self._restarts
        kept = [lease] if alive and lease else []
        self._nesting += 1
        self._lease = None
        self._kept += kept
        try:
            until = self.clock.seconds + seconds
            while self.clock.seconds < until:
                if not self._go_on(until):
                    self.clock.advance_to(until)
        finally:
            self._nesting -= 1
            self._lease = lease
            self._kept = [other for other in self._kept if other not in kept]
        if self._restarts != restarts:
            raise Died

    @contextmanager
    def _keep_lease(self, claim: Claim) -> Iterator[None]:
        """As `KeptLease` does it, in virtual time."""

        def renew() -> None:
            with Session(self.engine) as session, session.begin():
                leases.renew(session, claim, self.settings.lease_seconds)

        every_seconds = self.settings.lease_seconds / 3
        self._lease = Lease(renew, every_seconds, self.clock.seconds + every_seconds)
        try:
            yield
        finally:
            self._lease = None

    # --- Time

    def _go_on(self, until: float) -> bool:
        """To the next moment, or to `until`, whichever is first; False if there is nothing left to do."""
        moments = [
            *(message.at for message in self.messages),
            *(at for at, _ in self.provider.on_their_way),
            *self.webhooks.next_moments(),
            *self.people.next_moments(),
            *(lease.next_at for lease in self._kept),
        ]
        soonest = min(moments, default=inf)
        if soonest < self._next_look_at:  # before beat wakes up again
            self._pass_to(min(soonest, until))
            self._one_moment()
            return True
        settings = self.settings
        look = rows(self.engine, _LOOK, resend=settings.resend_seconds, portrait=settings.portrait_retention_seconds)[0]
        self._failed_jobs = look.failed
        if not moments and not look.unfinished:
            return False
        now = self.clock.seconds
        sweep_at = inf if look.sweep_in is None else max(now + look.sweep_in, self._next_look_at)
        delete_at = inf if look.delete_in is None else max(now + look.delete_in, self._next_look_at)
        expire_at = inf if look.expire_in is None else max(now + look.expire_in, self._next_look_at)
        self._pass_to(min(soonest, sweep_at, delete_at, expire_at, until))
        self._one_moment()
        now = self.clock.seconds
        if min(sweep_at, delete_at, expire_at) <= now:
            self._next_look_at = max(self._next_look_at, now + SWEEP_SECONDS)
        if sweep_at <= now:
            self._sweep_beside = self.dice.strikes("two sweeps at once")
            self.alive(self._sweep)
            self._sweep_beside = False
        if delete_at <= now:
            self.alive(lambda: sweeper.delete_loose_objects(self.sessions, self.storage))
        if expire_at <= now:
            self.alive(lambda: retention.expire_pictures(self.sessions, self.notes, self.settings))
        return True

    def _pass_to(self, seconds: float) -> None:
        self.clock.advance_to(max(seconds, self.clock.seconds + INSTANT_SECONDS))
        self.dice.calm = self.dice.calm or self.clock.seconds > FAULTS_SECONDS

    def _one_moment(self) -> None:
        self._change_weather()
        for lease in [lease for lease in self._kept if lease.next_at <= self.clock.seconds]:
            lease.next_at += lease.every_seconds
            with suppress(LeaseLost):
                lease.renew()
        self.provider.arrive()
        self.webhooks.arrive()
        self.people.act(self._failed_jobs)
        while due := [message for message in self.messages if message.at <= self.clock.seconds]:
            message = self.dice.chance.choice(due)
            self.messages.remove(message)
            self.alive(partial(self._handle, message))

    def _change_weather(self) -> None:
        """What strikes the whole world at once."""
        now, chance = self.clock.seconds, self.dice.chance
        if self.dice.strikes("redis emptied"):
            self.messages.clear()
        if self.dice.strikes("clock jumps forward"):
            self.clock.jump(chance.uniform(1, 90))
        if self.dice.strikes("clock jumps back"):
            self.clock.jump(-chance.uniform(1, 90))
        if self.dice.strikes("beat away"):
            self._next_look_at = now + chance.uniform(5, 90)
        if self.dice.strikes("workers restart"):
            # What they had fetched is lost with them: messages are acknowledged early.
            self._restarts += 1
            self.messages = [message for message in self.messages if message.at > now]

    def _handle(self, message: Message) -> None:
        match message.task:
            case "start":
                self.generation.start(message.item)
            case "collect":
                self.generation.collect(message.item, hinted=message.hinted, named=message.named)
            case "close":
                self.closing.close(message.item)

    def _sweep(self) -> None:
        sweeper.sweep(self.sessions, self.queue, self.notes, self.settings)

    def _note_fault(self) -> None:
        self.last_fault_at = self.clock.now
