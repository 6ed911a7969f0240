"""Workers that die, dawdle and forget, next to a vendor that counts every minute: none of our requests is refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import worker.provider_budget
from shared.settings import Settings
from tests.state_machines import run
from tests.test_provider_budget import Clock, take
from worker.budgeted_predictor import FRESH_SECONDS
from worker.provider_budget import ProviderBudget

PER_MINUTE = 60
MINUTE = 60.0
workers = st.sampled_from(["w1", "w2", "w3"])
users = st.sampled_from([UUID(int=1), UUID(int=2)])


@dataclass
class Worker:
    """One process, which does one thing at a time."""

    budget: ProviderBudget
    granted_at: float | None = None
    answer: dict[str, str] | None = None  # on its way from the vendor


class Budget(RuleBasedStateMachine):
    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        super().__init__()
        client.flushdb()
        self.settings, self.client, self.clock = settings, client, Clock(client)
        self.workers = {name: Worker(ProviderBudget(settings)) for name in ("w1", "w2", "w3")}
        self.received: list[float] = []

    def vendor_receives(self) -> dict[str, str]:
        """The answer's headers. The vendor lets in so many in any minute, and one more would be refused."""
        now = self.clock.now()
        minute = [at for at in self.received if at > now - MINUTE]
        assert len(minute) < PER_MINUTE, "the vendor answers 429"
        self.received = [*minute, now]
        reset = self.received[0] + MINUTE - now if len(self.received) == PER_MINUTE else 1
        return {"ratelimit-remaining": str(PER_MINUTE - len(self.received)), "ratelimit-reset": str(int(reset))}

    @rule(name=workers, user=users)
    def ask(self, name: str, user: UUID) -> None:
        worker = self.workers[name]
        if worker.granted_at is None and worker.answer is None and take(worker.budget, "create", user) == 0:
            worker.granted_at = self.clock.now()

    @rule(name=workers)
    def send(self, name: str) -> None:
        """What was granted, unless that is too long ago."""
        worker = self.workers[name]
        if worker.granted_at is not None:
            if self.clock.now() - worker.granted_at > FRESH_SECONDS:
                worker.budget.give_back("create")
            else:
                worker.answer = self.vendor_receives()
            worker.granted_at = None

    @rule(name=workers, lost=st.booleans())
    def hear(self, name: str, lost: bool) -> None:
        worker = self.workers[name]
        if worker.answer is not None:
            if not lost:
                worker.budget.note_limits("create", worker.answer)
            worker.answer = None

    @rule(name=workers, user=users, seconds=st.sampled_from([5, 70]), answered=st.booleans(), forgets=st.booleans())
    def work_without_a_pause(self, name: str, user: UUID, seconds: int, answered: bool, forgets: bool) -> None:
        """One worker sends whatever it may; Redis keeps what it is told meanwhile, or forgets it time and again."""
        self.send(name)
        self.hear(name, lost=True)
        budget, end = self.workers[name].budget, self.clock.now() + seconds
        while self.clock.now() < end:
            if wait := take(budget, "create", user):
                self.clock.pass_time(wait)
                continue
            answer = self.vendor_receives()
            if answered:
                budget.note_limits("create", answer)
            if forgets and len(self.received) % 10 == 0:
                self.client.flushdb()

    @rule(name=workers, user=users)
    def ask_after_a_quiet_minute(self, name: str, user: UUID) -> None:
        """Whatever was before: then there is room."""
        for other in self.workers:
            self.send(other)
            self.hear(other, lost=False)
        self.clock.pass_time(MINUTE + 5)
        wait = take(self.workers[name].budget, "create", user)
        assert wait < 2, "only a bucket that Redis has lost has nothing yet"
        self.clock.pass_time(wait)
        assert wait == 0 or take(self.workers[name].budget, "create", user) == 0
        self.workers[name].granted_at = self.clock.now()

    @rule(seconds=st.sampled_from([0.4, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_time(seconds)

    @rule(name=workers)
    def restart(self, name: str) -> None:
        """It forgets what it saw, and what it was about to do."""
        self.workers[name] = Worker(ProviderBudget(self.settings))

    @rule()
    def redis_forgets(self) -> None:
        self.client.flushdb()


@pytest.fixture
def budget_settings(offline_settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # A busy machine must not look like a Redis that is away.
    monkeypatch.setattr(worker.provider_budget, "REDIS_TIMEOUT_SECONDS", 30)
    return offline_settings.model_copy(update={"redis_url": redis_url, "replicate_creates_per_minute": PER_MINUTE})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_the_vendor_never_has_to_refuse(budget_settings: Settings, client: redis.Redis) -> None:
    run(Budget, budget_settings, client, examples=12, steps=20)
