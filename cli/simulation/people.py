"""Those who ask for something: users who submit, repeat and cancel, and ops who retry what failed."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from cli.simulation.database import rows
from cli.simulation.provider import UNFIT_PORTRAIT
from shared import credits, free_retry, jobs, loose_objects
from shared.errors import IdempotencyConflict, Refusal
from shared.free_retry import NotRetried
from shared.spending import Spending
from shared.staff_actions import Actor

if TYPE_CHECKING:
    from cli.simulation.world import World

SIGNUP_CREDITS = 2
PATIENCE_SECONDS = 5.0  # then a user without an answer asks again
_PRINT, _OTHER_PRINT = "the request", "another request"


@dataclass
class Request:
    """A submission as its user knows it, repeated with the same key until there is an answer."""

    user_id: UUID
    key: str
    due_at: float | None
    portrait: bytes
    answers: set[UUID] = field(default_factory=set)  # every job that this key was ever answered with


@dataclass
class People:
    world: "World"
    requests: list[Request] = field(default_factory=list)
    _plans: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _failed_jobs: set[UUID] = field(default_factory=set)

    def arrive(self) -> None:
        """Make the schedule's user and what they will ask for."""
        dice = self.world.dice
        with Session(self.world.engine) as session, session.begin():
            user_id = credits.provision_user(session, f"{self.world.seed}@example.com", SIGNUP_CREDITS)
        for number in range(dice.chance.choice((1, 1, 2, 3))):
            portrait = UNFIT_PORTRAIT if dice.strikes("portrait unfit") else b"portrait"
            self.requests.append(Request(user_id, f"key-{number}", dice.chance.uniform(0, 30), portrait))

    def next_moments(self) -> Iterable[float]:
        yield from (request.due_at for request in self.requests if request.due_at is not None)
        yield from (at for at, _ in self._plans)

    def act(self, failed_jobs: int) -> None:
        """Do what is due. `failed_jobs` is how many jobs have ended as FAILED by now."""
        now, dice = self.world.clock.seconds, self.world.dice
        if failed_jobs > len(self._failed_jobs):
            self._consider_retries()
        for request in self.requests:
            if request.due_at is not None and request.due_at <= now:
                request.due_at = now + PATIENCE_SECONDS
                self.world.alive(partial(self._submit, request))
        due = [plan for at, plan in self._plans if at <= now]
        self._plans = [(at, plan) for at, plan in self._plans if at > now]
        for plan in due:
            self.world.alive(plan)
        if dice.calm:
            self._plans.clear()

    # --- Users

    def _submit(self, request: Request) -> None:
        """As the API does it, in the same order: expect, put, then everything in one transaction, then the queue."""
        world = self.world
        with suppress(Refusal):
            if (earlier := self._earlier(request, _PRINT)) is not None:
                self._answered(request, earlier)
                return
        new = jobs.NewJob(
            id=uuid4(),
            user_id=request.user_id,
            style="CLASSIC",
            role=None,
            portrait_id=uuid4(),
            idempotency_key=request.key,
            request_fingerprint=_PRINT,
            deadline_seconds=world.settings.job_deadline_seconds,
            delivery_wanted=True,
        )
        key = jobs.portrait_key(new.portrait_id)
        with world.sessions.begin() as session:
            loose_objects.expect(session, key)
        world.storage.put(key, request.portrait, "image/jpeg")
        try:
            with world.sessions.begin() as session:
                accepted = jobs.accept(session, new)
        except Refusal:  # no credit is left
            self._let_go(key)
            request.due_at = None
            return
        if accepted is None:  # the same key was accepted meanwhile
            self._let_go(key)
            if (earlier := self._earlier(request, _PRINT)) is None:
                raise RuntimeError("an Idempotency-Key was taken and is not there")
            self._answered(request, earlier)
            return
        world.queue.start_photos(accepted.photo_ids)
        self._answered(request, new.id)

    def _earlier(self, request: Request, fingerprint: str) -> UUID | None:
        with self.world.sessions() as session:
            found = session.execute(
                text("SELECT id, request_fingerprint FROM jobs WHERE user_id = :user AND idempotency_key = :key"),
                {"user": request.user_id, "key": request.key},
            ).one_or_none()
        if found is None:
            return None
        if found.request_fingerprint != fingerprint:
            raise IdempotencyConflict
        return UUID(str(found.id))

    def _answered(self, request: Request, job_id: UUID) -> None:
        now, dice = self.world.clock.seconds, self.world.dice
        request.answers.add(job_id)
        request.due_at = now + dice.chance.uniform(0, 60) if dice.strikes("request repeated") else None
        if dice.strikes("request changed"):
            self._plan(partial(self._submit_other, request))
        if dice.strikes("user cancels"):
            self._plan(partial(self._cancel, request, job_id))

    def _submit_other(self, request: Request) -> None:
        """Another picture under the same key: there must be no answer to it."""
        with suppress(IdempotencyConflict):
            self._earlier(request, _OTHER_PRINT)
            self.world.violations.append(f"I8: another request was taken under the key {request.key}")

    def _cancel(self, request: Request, job_id: UUID) -> None:
        with suppress(Refusal), self.world.sessions.begin() as session:
            jobs.cancel(session, request.user_id, job_id)

    def _let_go(self, key: str) -> None:
        with self.world.sessions.begin() as session:
            loose_objects.let_go(session, key)

    # --- Ops

    def _consider_retries(self) -> None:
        for (job_id,) in rows(self.world.engine, "SELECT id FROM jobs WHERE status = 'FAILED' ORDER BY id"):
            if job_id not in self._failed_jobs:
                self._failed_jobs.add(job_id)
                # Asked for twice now and then: it must happen once.
                while self.world.dice.strikes("job retried"):
                    self._plan(partial(self._retry, job_id))

    def _retry(self, job_id: UUID) -> None:
        world = self.world
        with suppress(NotRetried):
            free_retry.retry_free_of_charge(
                world.engine,
                world.storage,
                world.queue,
                job_id,
                "a schedule",
                actor=Actor.command("a schedule"),
                spending=Spending(world.settings),
                deadline_seconds=world.settings.job_deadline_seconds,
                delivery_wanted=True,
            )

    def _plan(self, step: Callable[[], None]) -> None:
        self._plans.append((self.world.clock.seconds + self.world.dice.chance.uniform(0, 60), step))
