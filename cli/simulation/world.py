"""One schedule: users, workers, messages, webhooks and sweeps in virtual time, with faults as the dice fall."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from cli.simulation.clock import Clock
from cli.simulation.dice import Dice
from cli.simulation.provider import SimulatedProvider
from cli.simulation.storage import SimulatedStorage
from shared import credits, jobs, loose_objects
from shared.errors import Refusal, StorageUnavailable
from shared.jobs import portrait_key
from shared.settings import Settings
from worker import sweeper
from worker.closing import Closing
from worker.generation import Generation

FAULTS_SECONDS = 240.0  # then the weather is calm, and everything must come to its end
END_SECONDS = FAULTS_SECONDS + 7200.0
SWEEP_SECONDS = 1.0
NESTING_MAX = 2  # workers standing still inside each other
_EMPTY = "TRUNCATE users, ledger_entries, jobs, photos, attempts, job_events, loose_objects CASCADE"


class Died(BaseException):
    """The process is killed here: nothing below may catch it."""


@dataclass
class Message:
    at: float
    task: str
    item: UUID
    hinted: bool = False


class Notes:
    def tell(self, job_id: UUID) -> None:
        """Nobody waits."""


@dataclass
class SimulatedQueue:
    """Stands where the JobQueue does."""

    world: "World"

    def length(self, queue: str) -> int | None:
        if self.world.dice.strikes("redis away"):
            return None
        return sum(message.task == queue for message in self.world.messages)

    def start_photos(self, ids: Iterable[UUID]) -> bool:
        return self._send("start", ids)

    def collect_photos(self, ids: Iterable[UUID], *, hinted: bool = False) -> bool:
        return self._send("collect", ids, hinted)

    def close_attempts(self, ids: Iterable[UUID]) -> bool:
        return self._send("close", ids)

    def _send(self, task: str, ids: Iterable[UUID], hinted: bool = False) -> bool:
        dice, now = self.world.dice, self.world.clock.seconds
        for item in sorted(ids):
            if dice.strikes("redis away"):
                return False
            if dice.strikes("message lost"):
                continue
            late = dice.chance.uniform(1, 30) if dice.strikes("message late") else 0.0
            for _ in range(2 if dice.strikes("message doubled") else 1):
                self.world.messages.append(Message(now + late + dice.chance.uniform(0, 0.5), task, item, hinted))
        return True


class WatchedSessions:
    """A sessionmaker before whose commits a process may die, and after whose commits it may also stand still."""

    def __init__(self, sessions: sessionmaker[Session], world: "World") -> None:
        self._sessions = sessions
        self._world = world

    def __call__(self) -> Session:
        return self._sessions()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with self._sessions() as session:
            yield session
            self._world.may_die()
            session.commit()
        self._world.boundary("after a commit")


@dataclass
class Request:
    """A submission as its user knows it, repeated with the same key until there is an answer."""

    user_id: UUID
    key: str
    job_id: UUID | None = None
    refused: bool = False  # no credit was left

    @property
    def waits(self) -> bool:
        return self.job_id is None and not self.refused


@dataclass
class World:
    engine: Engine
    settings: Settings
    seed: int
    messages: list[Message] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    last_fault_at: float = 0.0
    nesting: int = 0

    def __post_init__(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(_EMPTY))
        self.clock = Clock(self.engine)
        self.dice = Dice(self.seed)
        self.dice.on_fault = self._note_fault
        self.provider = SimulatedProvider(self.clock, self.dice, self.boundary, self._on_webhook)
        self.storage = SimulatedStorage(self.clock, self.dice, self.boundary)
        # Each of these stands where the real one does, and does as much of it as the use cases ask for.
        self.queue = cast(Any, SimulatedQueue(self))
        self.plain = sessionmaker(self.engine, expire_on_commit=False)
        self.sessions = cast(Any, WatchedSessions(self.plain, self))
        self.notes = cast(Any, Notes())
        self.generation = Generation(self.sessions, self.storage, self.provider, self.notes, self.settings)
        self.closing = Closing(self.sessions, self.provider, self.settings)

    def run(self) -> None:
        """The whole schedule, until nothing is left to do."""
        self._arrange_requests()
        while self.clock.seconds < END_SECONDS:
            if self.clock.seconds > FAULTS_SECONDS:
                self.dice.calm = True
            self._one_moment()
            if self.dice.calm and not self._unfinished():
                return
            self._go_to_next_moment()
        self.violations.append("I5: something was still in work at the very end")

    # --- Faults of processes

    def boundary(self, _name: str) -> None:
        """Between two effects: here a process may be killed, or stand still while the world goes on."""
        self.may_die()
        if self.nesting < NESTING_MAX and self.dice.strikes("process stands still"):
            self.nesting += 1
            until = self.clock.seconds + self.dice.chance.uniform(1, 60)
            while self.clock.seconds < until:
                self._go_to_next_moment()
                self._one_moment()
            self.nesting -= 1

    def may_die(self) -> None:
        if self.dice.strikes("process dies"):
            raise Died

    def _alive(self, step: Callable[[], None]) -> None:
        nesting = self.nesting
        try:
            step()
        except Died:
            self.nesting = nesting
        except StorageUnavailable:
            pass

    # --- What happens at one moment

    def _one_moment(self) -> None:
        if self.dice.strikes("redis emptied"):
            self.messages.clear()
        if self.dice.strikes("clock jumps"):
            self.clock.advance(self.dice.chance.uniform(1, 90))
        self.provider.arrive()
        for request in self.requests:
            if request.waits:
                self._alive(partial(self._submit, request))
            elif request.job_id is not None and self.dice.strikes("user cancels"):
                self._alive(partial(self._cancel, request, request.job_id))
        while due := [message for message in self.messages if message.at <= self.clock.seconds]:
            message = self.dice.chance.choice(due)
            self.messages.remove(message)
            self._alive(partial(self._handle, message))
        self._alive(lambda: sweeper.sweep(self.sessions, self.queue, self.notes, self.settings))
        self._alive(lambda: sweeper.delete_loose_objects(self.sessions, self.storage))

    def _handle(self, message: Message) -> None:
        match message.task:
            case "start":
                self.generation.start(message.item)
            case "collect":
                self.generation.collect(message.item, hinted=message.hinted)
            case "close":
                self.closing.close(message.item)

    def _go_to_next_moment(self) -> None:
        """Forward to when something is due, a second at least: what the sweep would see in between is nothing."""
        with self.engine.connect() as connection:
            due = connection.execute(
                text(
                    "SELECT extract(epoch FROM least("
                    "(SELECT min(greatest(next_check_at, coalesce(sent_at, next_check_at) + :resend)) FROM photos "
                    " WHERE status IN ('PENDING', 'GENERATING')), "
                    "(SELECT min(deadline_at) FROM jobs WHERE status IN ('QUEUED', 'PROCESSING')), "
                    "(SELECT min(close_due_at) FROM attempts), (SELECT min(delete_after) FROM loose_objects)"
                    ") - cuggu_now())"
                ),
                {"resend": f"{self.settings.resend_seconds} seconds"},
            ).scalar()
        waits = [float(due)] if due is not None else [30.0]
        waits += [message.at - self.clock.seconds for message in self.messages]
        waits += [at - self.clock.seconds for at, _ in self.provider.late]
        if any(request.waits for request in self.requests):
            waits.append(SWEEP_SECONDS)
        self.clock.advance(max(SWEEP_SECONDS, min(waits)))

    def _on_webhook(self, photo_id: UUID, at: float) -> None:
        self.messages.append(Message(at, "collect", photo_id, hinted=True))
        if self.dice.strikes("webhook forged"):
            self.messages.append(Message(at, "collect", uuid4(), hinted=True))

    def _note_fault(self) -> None:
        self.last_fault_at = self.clock.seconds

    # --- Users

    def _arrange_requests(self) -> None:
        with self.plain.begin() as session:
            user_id = credits.provision_user(session, f"{self.seed}@example.com", 2)
        for number in range(self.dice.chance.choice((1, 1, 2, 3))):
            self.requests.append(Request(user_id, f"key-{number}"))

    def _submit(self, request: Request) -> None:
        """As the API does it, in the same order: expect, put, then everything in one transaction, then the queue."""
        with self.plain() as session:
            earlier = session.execute(
                text("SELECT id FROM jobs WHERE user_id = :user AND idempotency_key = :key"),
                {"user": request.user_id, "key": request.key},
            ).scalar()
        if earlier is not None:
            request.job_id = earlier
            return
        new = jobs.NewJob(
            id=uuid4(),
            user_id=request.user_id,
            style="CLASSIC",
            role=None,
            portrait_id=uuid4(),
            idempotency_key=request.key,
            request_fingerprint="f",
            deadline_seconds=self.settings.job_deadline_seconds,
            delivery_wanted=True,
        )
        key = portrait_key(new.portrait_id)
        with self.sessions.begin() as session:
            loose_objects.expect(session, key)
        self.storage.put(key, b"portrait", "image/jpeg")
        try:
            with self.sessions.begin() as session:
                accepted = jobs.accept(session, new)
        except Refusal:
            request.refused = request.job_id is None
            return
        if accepted is None:
            return  # the same key was accepted while this one stood still; asking again will tell
        request.job_id = new.id
        self.queue.start_photos(accepted.photo_ids)

    def _cancel(self, request: Request, job_id: UUID) -> None:
        with suppress(Refusal), self.sessions.begin() as session:
            jobs.cancel(session, request.user_id, job_id)

    def _unfinished(self) -> bool:
        with self.engine.connect() as connection:
            return bool(
                connection.execute(
                    text(
                        "SELECT (SELECT count(*) FROM jobs WHERE completed_at IS NULL) "
                        "+ (SELECT count(*) FROM attempts WHERE close_due_at IS NOT NULL) "
                        "+ (SELECT count(*) FROM loose_objects)"
                    )
                ).scalar()
                or self.messages
                or self.provider.late
                or any(request.waits for request in self.requests)
            )
