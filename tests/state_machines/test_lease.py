"""One photo, three workers, and time: only who holds the lease changes anything, however late the others come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cli.simulation.clock import START, Clock
from shared import attempts, jobs, leases, photos
from shared.attempts import AttemptEnd, OpenAttempt
from shared.leases import Claim, LeaseLost
from shared.photos import StoredFile
from shared.states import AttemptOutcome, PhotoStatus
from tests.rows import accepted_job
from tests.state_machines import run

LEASE_SECONDS = 15
RESEND_SECONDS = 10
DEADLINE_SECONDS = 10_000  # not what is tried here

workers = st.sampled_from(["w1", "w2", "w3"])
seconds = st.sampled_from([0, 1, RESEND_SECONDS, LEASE_SECONDS])


@dataclass
class Worker:
    """What one worker believes, rightly or not any more."""

    claim: Claim | None = None
    attempt: OpenAttempt | None = None


@dataclass
class Model:
    status: str = "PENDING"
    holder: str | None = None
    due_at: float = 0
    sent_at: float | None = 0
    outcomes: list[str] = field(default_factory=list)  # of the attempts, in order
    job_ended: bool = False


class Lease(RuleBasedStateMachine):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__()
        self.engine = engine
        self.clock = clock
        clock.restart()
        self.model = Model()
        self.workers: dict[str, Worker] = {}

    @initialize()
    def a_job_is_accepted(self) -> None:
        self.user_id, self.job_id, photo_ids = accepted_job(self.engine, deadline_seconds=DEADLINE_SECONDS)
        self.photo_id = photo_ids[2]

    def teardown(self) -> None:
        if hasattr(self, "job_id") and not self.model.job_ended:
            self.commit(jobs.cancel, self.user_id, self.job_id)  # the next example's sweep shall not find its photos

    def commit(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with Session(self.engine) as session, session.begin():
            return action(session, *arguments, **options)

    def worker(self, name: str) -> Worker:
        return self.workers.setdefault(name, Worker())

    def as_holder(self, name: str, wanted: str | None, action: Callable[..., Any], *arguments: Any) -> bool:
        """Let the worker try; True if it had the right to. Without it, it is told so, and nothing may change."""
        if self.model.holder == name and wanted in (None, self.model.status):
            self.commit(action, *arguments)
            return True
        with pytest.raises(LeaseLost):
            self.commit(action, *arguments)
        return False

    def given_back(self, status: str, after_seconds: float | None = None) -> None:
        self.model.status, self.model.holder = status, None
        if after_seconds is not None:
            self.model.due_at = self.clock.seconds + after_seconds

    @rule(seconds=seconds)
    def time_passes(self, seconds: int) -> None:
        self.clock.advance_to(self.clock.seconds + seconds)

    @rule(name=workers, expected=st.sampled_from([PhotoStatus.PENDING, PhotoStatus.GENERATING]), hinted=st.booleans())
    def claim(self, name: str, expected: PhotoStatus, hinted: bool) -> None:
        model = self.model
        due = self.clock.seconds >= model.due_at or (hinted and model.holder is None)
        claim = self.commit(leases.claim, self.photo_id, expected, LEASE_SECONDS, hinted=hinted)
        assert (claim is not None) == (due and model.status == expected and not model.job_ended)
        if claim is not None:
            self.workers[name] = Worker(claim, self.commit(attempts.find_open, self.photo_id))
            model.holder, model.due_at, model.sent_at = name, self.clock.seconds + LEASE_SECONDS, None

    @precondition(lambda self: any(worker.claim for worker in self.workers.values()))
    @rule(name=workers)
    def renew(self, name: str) -> None:
        if (claim := self.worker(name).claim) and self.as_holder(name, None, leases.renew, claim, LEASE_SECONDS):
            self.model.due_at = self.clock.seconds + LEASE_SECONDS

    @precondition(lambda self: any(worker.claim for worker in self.workers.values()))
    @rule(name=workers, after=seconds)
    def release(self, name: str, after: int) -> None:
        if (claim := self.worker(name).claim) and self.as_holder(name, None, leases.release, claim, after):
            self.given_back(self.model.status, after)

    @precondition(lambda self: any(worker.claim for worker in self.workers.values()))
    @rule(name=workers)
    def open_attempt(self, name: str) -> None:
        if (claim := self.worker(name).claim) and self.as_holder(
            name, "PENDING", photos.open_attempt, claim, "preview", "preview"
        ):
            self.worker(name).attempt = self.commit(attempts.find_open, self.photo_id)
            self.model.status = "GENERATING"
            self.model.outcomes.append("OPEN")

    @precondition(lambda self: any(worker.attempt for worker in self.workers.values()))
    @rule(name=workers, after=seconds)
    def withdraw(self, name: str, after: int) -> None:
        worker = self.worker(name)
        if worker.attempt and self.as_holder(
            name, "GENERATING", photos.withdraw_attempt, worker.claim, worker.attempt, after
        ):
            self.given_back("PENDING", after)
            self.model.outcomes.pop()

    @precondition(lambda self: any(worker.attempt for worker in self.workers.values()))
    @rule(name=workers)
    def store(self, name: str) -> None:
        worker = self.worker(name)
        if worker.attempt and worker.claim:
            file = StoredFile(photos.photo_key(worker.claim, worker.attempt), 900, 1200, 1000, "0" * 64)
            end = AttemptEnd(AttemptOutcome.SUCCEEDED)
            if self.as_holder(name, "GENERATING", photos.store, worker.claim, worker.attempt, end, file):
                self.given_back("STORED")
                self.model.outcomes[-1] = "SUCCEEDED"

    @precondition(lambda self: any(worker.attempt for worker in self.workers.values()))
    @rule(name=workers, after=seconds)
    def retry(self, name: str, after: int) -> None:
        worker, end = self.worker(name), AttemptEnd(AttemptOutcome.FAILED, "provider_failed")
        if worker.attempt and self.as_holder(
            name, "GENERATING", photos.retry, worker.claim, worker.attempt, end, after
        ):
            self.given_back("PENDING", after)
            self.model.outcomes[-1] = "FAILED"

    @precondition(lambda self: any(worker.attempt for worker in self.workers.values()))
    @rule(name=workers)
    def give_up(self, name: str) -> None:
        worker, end = self.worker(name), AttemptEnd(AttemptOutcome.FAILED, "moderated")
        if worker.attempt and self.as_holder(name, "GENERATING", photos.give_up, worker.claim, worker.attempt, end):
            self.given_back("FAILED")
            self.model.outcomes[-1] = "FAILED"

    @rule(status=st.sampled_from([PhotoStatus.PENDING, PhotoStatus.GENERATING]))
    def sweep(self, status: PhotoStatus) -> None:
        model, now = self.model, self.clock.seconds
        unsent = model.sent_at is None or model.sent_at + RESEND_SECONDS <= now
        due = model.status == status and model.due_at <= now and unsent
        assert (self.photo_id in self.commit(photos.take_due, status, 100, RESEND_SECONDS)) == due
        if due:
            model.sent_at = now

    @precondition(lambda self: self.model.outcomes)
    @rule()
    def the_user_cancels(self) -> None:
        if not self.model.job_ended:
            self.commit(jobs.cancel, self.user_id, self.job_id)
            self.model.job_ended = True
            if self.model.status in ("PENDING", "GENERATING"):
                self.given_back("CANCELED")

    @invariant()
    def the_row_is_what_the_holder_made_it(self) -> None:
        with self.engine.connect() as connection:
            photo = connection.execute(text("SELECT * FROM photos WHERE id = :id"), {"id": self.photo_id}).one()
            outcomes = connection.execute(
                text("SELECT outcome FROM attempts WHERE photo_id = :id ORDER BY number"), {"id": self.photo_id}
            ).scalars()
            assert list(outcomes) == self.model.outcomes
        model = self.model
        assert photo.status == model.status
        assert photo.lease_token == self.token_of(model.holder)
        if model.status in ("PENDING", "GENERATING"):
            assert photo.next_check_at == START + timedelta(seconds=model.due_at)
            assert photo.sent_at == (None if model.sent_at is None else START + timedelta(seconds=model.sent_at))

    def token_of(self, name: str | None) -> UUID | None:
        claim = self.workers[name].claim if name else None
        return claim.lease_token if claim else None


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_a_photo_belongs_to_one_worker_at_a_time(engine: Engine) -> None:
    run(Lease, engine, Clock(engine), examples=70, steps=30)
