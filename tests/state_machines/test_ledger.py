"""The ledger under any order of sign-up, grant, charge and refund, several at once included: I1, I2, I3."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cli.simulation.clock import Clock
from shared import credits, jobs, leases, photos
from shared.attempts import AttemptEnd
from shared.errors import GrantConflict, InsufficientCredits, JobEnded, NotFound
from shared.jobs import Settlement
from shared.photos import StoredFile
from shared.states import AttemptOutcome, PhotoStatus
from tests.rows import new_job
from tests.state_machines import run
from tests.test_jobs import at_once

DEADLINE_SECONDS = 100
LEASE_SECONDS = 30
users = st.sampled_from(["ann", "bob"])
# What becomes of the next photos: the ends that differ are all near.
outcomes = st.sampled_from(
    [(True,), (False,), (True, True, True), (True, True, True, False), (True,) * 4, (False,) * 4]
)


@dataclass
class ModelJob:
    owner: str
    photo_ids: tuple[UUID, ...]
    deadline_at: float
    stored: int = 0
    failed: int = 0
    status: str = "QUEUED"

    @property
    def active(self) -> bool:
        return self.status in ("QUEUED", "PROCESSING")

    @property
    def keeps_credit(self) -> bool:
        return self.active or self.status == "COMPLETED" or (self.status == "CANCELED" and self.stored > 0)


@dataclass
class ModelUser:
    id: UUID
    granted: int
    jobs: dict[UUID, ModelJob] = field(default_factory=dict)

    @property
    def balance(self) -> int:
        return self.granted - sum(job.keeps_credit for job in self.jobs.values())


class Ledger(RuleBasedStateMachine):
    jobs_made = Bundle("jobs_made")

    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__()
        self.engine = engine
        self.clock = clock
        clock.restart()
        self.world = uuid4().hex  # users and payments of other examples are others
        self.users: dict[str, ModelUser] = {}
        self.granted: dict[str, tuple[str, int]] = {}

    def commit(self, action: Any, *arguments: Any, **options: Any) -> Any:
        with Session(self.engine) as session, session.begin():
            return action(session, *arguments, **options)

    def user_id(self, name: str) -> UUID:
        return self.users[name].id if name in self.users else uuid4()

    def job(self, job_id: UUID) -> ModelJob:
        return next(user.jobs[job_id] for user in self.users.values() if job_id in user.jobs)

    @initialize()
    def ann_is_there(self) -> None:
        self.sign_in("ann", 5)

    @rule(name=users, signup=st.integers(0, 3))
    def sign_in(self, name: str, signup: int) -> None:
        user_id = self.commit(credits.provision_user, f" {name.upper()}-{self.world}@example.com", signup)
        known = self.users.setdefault(name, ModelUser(user_id, signup))
        assert user_id == known.id

    @rule(name=users, amount=st.integers(0, 2), payment=st.sampled_from(["pay-1", "pay-2"]))
    def grant(self, name: str, amount: int, payment: str) -> None:
        reference = f"{payment}-{self.world}"
        known = self.granted.get(payment)
        if amount == 0 or (name in self.users and known not in (None, (name, amount))):
            with pytest.raises(ValueError if amount == 0 else GrantConflict):
                self.commit(credits.grant, self.user_id(name), amount, reference)
        elif name not in self.users:
            with pytest.raises(NotFound):
                self.commit(credits.grant, self.user_id(name), amount, reference)
        else:
            balance, now = self.commit(credits.grant, self.user_id(name), amount, reference)
            assert now == (known is None)
            if now:
                self.granted[payment] = (name, amount)
                self.users[name].granted += amount
            assert balance == self.users[name].balance

    @rule(target=jobs_made, name=users, together=st.integers(1, 3))
    def submit(self, name: str, together: int) -> Any:
        """One job, or several at the same moment."""
        user = self.users.get(name)
        if user is None:
            return multiple()
        before = user.balance
        wanted = [new_job(user.id, deadline_seconds=DEADLINE_SECONDS) for _ in range(together)]

        def accept(number: int) -> jobs.Accepted | InsufficientCredits:
            try:
                accepted: jobs.Accepted = self.commit(jobs.accept, wanted[number])
            except InsufficientCredits as refused:
                return refused
            return accepted

        answers = dict(zip(wanted, at_once(together, accept) if together > 1 else [accept(0)], strict=True))
        taken = {new.id: answer for new, answer in answers.items() if isinstance(answer, jobs.Accepted)}
        assert len(taken) == min(before, together)
        assert sorted(answer.credits_left for answer in taken.values()) == list(range(before - len(taken), before))
        for job_id, answer in taken.items():
            user.jobs[job_id] = ModelJob(name, answer.photo_ids, self.clock.seconds + DEADLINE_SECONDS)
        return multiple(*taken)

    @rule(job_id=jobs_made, outcomes=outcomes)
    def work(self, job_id: UUID, outcomes: tuple[bool, ...]) -> None:
        """The next photos of the job, as a worker would make them or give them up."""
        for good in outcomes:
            job = self.job(job_id)
            done = job.stored + job.failed
            photo_id = job.photo_ids[min(done, 3)]
            claim = self.commit(leases.claim, photo_id, PhotoStatus.PENDING, LEASE_SECONDS, hinted=True)
            assert (claim is not None) == job.active
            if claim is None:
                return
            attempt = self.commit(photos.open_attempt, claim, "preview", "preview")
            settled: Settlement | None
            if good:
                file = StoredFile(photos.photo_key(claim, attempt), 900, 1200, 1000, "0" * 64)
                settled = self.commit(photos.store, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), file)
                job.stored += 1
            else:
                settled = self.commit(photos.give_up, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, "no"))
                job.failed += 1
            job.status = "PROCESSING"
            assert (settled is not None) == (done == 3)
            if done == 3:
                job.status = self.end_of(job)
                self.says(settled, job)

    @rule(job_id=jobs_made, outcomes=st.just(()) | outcomes)
    def cancel(self, job_id: UUID, outcomes: tuple[bool, ...]) -> None:
        """After some more work. A stranger never can."""
        self.work(job_id, outcomes)
        job = self.job(job_id)
        with pytest.raises(NotFound):
            self.commit(jobs.cancel, uuid4(), job_id)
        if not job.active:
            with pytest.raises(JobEnded):
                self.commit(jobs.cancel, self.users[job.owner].id, job_id)
        else:
            settled = self.commit(jobs.cancel, self.users[job.owner].id, job_id)
            job.status = "CANCELED"
            self.says(settled, job)

    @rule(seconds=st.sampled_from([1, DEADLINE_SECONDS]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance_to(self.clock.seconds + seconds)

    @rule(job_id=jobs_made)
    def sweep(self, job_id: UUID) -> None:
        job = self.job(job_id)
        overdue = job.active and job.deadline_at <= self.clock.seconds
        settled = self.commit(jobs.settle_overdue, job_id)
        assert (settled is not None) == overdue
        if overdue:
            job.status = self.end_of(job)
            self.says(settled, job)

    @rule(job_id=consumes(jobs_made))
    def end_from_all_sides(self, job_id: UUID) -> None:
        """Two cancels and two sweeps at the same moment: one of them decides."""
        job = self.job(job_id)
        owner_id = self.users[job.owner].id

        def end(number: int) -> Settlement | None:
            try:
                settled: Settlement | None = (
                    self.commit(jobs.cancel, owner_id, job_id)
                    if number % 2
                    else self.commit(jobs.settle_overdue, job_id)
                )
            except JobEnded:
                return None
            return settled

        decided = [settled for settled in at_once(4, end) if settled is not None]
        assert len(decided) == job.active
        for settled in decided:
            overdue = job.deadline_at <= self.clock.seconds
            job.status = self.end_of(job) if overdue and settled.status != "CANCELED" else "CANCELED"
            assert settled.status == job.status
            assert (settled.refunded_to is None) == job.keeps_credit

    def end_of(self, job: ModelJob) -> str:
        return {0: "FAILED", 4: "COMPLETED"}.get(job.stored, "PARTIAL")

    def says(self, settled: Any, job: ModelJob) -> None:
        refunded_to = None if job.keeps_credit else self.users[job.owner].balance
        assert (settled.status, settled.stored, settled.refunded_to) == (job.status, job.stored, refunded_to)

    @invariant()
    def every_balance_is_its_ledger_and_the_models(self) -> None:
        with self.engine.connect() as connection:
            for user in self.users.values():
                balance = connection.execute(
                    text("SELECT credits FROM users WHERE id = :id"), {"id": user.id}
                ).scalar_one()
                entries = connection.execute(
                    text(
                        "SELECT kind, amount, balance_after, job_id FROM ledger_entries WHERE user_id = :id ORDER BY id"
                    ),
                    {"id": user.id},
                ).all()
                assert balance == sum(entry.amount for entry in entries) == user.balance >= 0
                assert entries[-1].balance_after == balance
                moved = Counter((entry.kind, entry.job_id) for entry in entries if entry.job_id)
                expected = Counter({("CHARGE", job_id): 1 for job_id in user.jobs})
                expected.update(("REFUND", job_id) for job_id, job in user.jobs.items() if not job.keeps_credit)
                assert moved == expected
                statuses = connection.execute(
                    text("SELECT id, status FROM jobs WHERE user_id = :id"), {"id": user.id}
                ).all()
                assert {row.id: row.status for row in statuses} == {i: job.status for i, job in user.jobs.items()}


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_the_ledger_is_right_whatever_happens_in_whatever_order(engine: Engine) -> None:
    run(Ledger, engine, Clock(engine), examples=50, steps=25)
