"""The moving windows of submissions and uploads, under a clock of the test's own, several requests at once included."""

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import UUID, uuid4

import limits.aio.storage.redis.redispy
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis.asyncio import Redis

import api.rate_limit
from api.rate_limit import RateLimits
from api.redis_guard import RedisGuard
from shared.errors import RateLimited
from shared.settings import Settings
from tests.state_machines import run

WINDOW_SECONDS = 60
SUBMISSIONS, UPLOADS = 3, 5
users = st.sampled_from(["ann", "bob"])


class World:
    """The limits of this test, and their clock."""

    def __init__(self, runner: asyncio.Runner, limits: RateLimits, redis: Redis) -> None:
        self.runner, self.limits, self.redis = runner, limits, redis
        self.now = time.time()


class Windows(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.ids: dict[str, UUID] = {"ann": uuid4(), "bob": uuid4()}
        self.submissions: dict[str, list[float]] = {"ann": [], "bob": []}
        self.uploads: dict[str, list[float]] = {"ann": [], "bob": []}
        self.told: tuple[str, int] | None = None  # who was just told to come back, and when

    def room(self, taken: list[float], limit: int) -> int:
        self.world.now += 0.001  # a request takes its time
        return limit - sum(at > self.world.now - WINDOW_SECONDS for at in taken)

    def tries(self, name: str, count: int, what: str) -> list[RateLimited]:
        """The refusals among as many requests at once."""
        ask = getattr(self.world.limits, what)

        async def together() -> list[BaseException | None]:
            return await asyncio.gather(*(ask(self.ids[name]) for _ in range(count)), return_exceptions=True)

        answers = [answer for answer in self.world.runner.run(together()) if answer is not None]
        refusals = [answer for answer in answers if isinstance(answer, RateLimited)]
        assert len(refusals) == len(answers)
        return refusals

    @rule(name=users, together=st.integers(1, SUBMISSIONS + 1))
    def submit(self, name: str, together: int) -> None:
        taken = self.submissions[name]
        passing = min(self.room(taken, SUBMISSIONS), together)
        refusals = self.tries(name, together, "count_submission")
        assert together - len(refusals) == passing
        taken += [self.world.now] * passing
        self.told = None
        for refusal in refusals:
            self.told = (name, refusal.details["retry_after_seconds"])
            free_in = taken[-SUBMISSIONS] + WINDOW_SECONDS - self.world.now
            assert free_in <= self.told[1] < free_in + 1 + 0.001

    @precondition(lambda self: self.told)
    @rule()
    def come_back_when_told(self) -> None:
        assert self.told is not None
        name, after_seconds = self.told
        self.world.now += after_seconds
        assert self.room(self.submissions[name], SUBMISSIONS) > 0, "the model agrees with what was told"
        assert self.tries(name, 1, "count_submission") == []
        self.submissions[name].append(self.world.now)
        self.told = None

    @rule(name=users)
    def look(self, name: str) -> None:
        """Looking takes nothing; the invariant sees it."""
        full = self.room(self.submissions[name], SUBMISSIONS) == 0
        assert len(self.tries(name, 1, "check_submission")) == full

    @rule(name=users, together=st.integers(1, UPLOADS + 1))
    def upload(self, name: str, together: int) -> None:
        """Uploads have a window of their own."""
        passing = min(self.room(self.uploads[name], UPLOADS), together)
        assert together - len(self.tries(name, together, "count_upload")) == passing
        self.uploads[name] += [self.world.now] * passing

    @rule(seconds=st.sampled_from([1, WINDOW_SECONDS // 3, WINDOW_SECONDS]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds
        self.told = None

    @rule()
    def redis_forgets(self) -> None:
        """Then everybody begins anew: credits still bound what can be spent."""
        self.world.runner.run(self.world.redis.flushdb())
        for taken in (*self.submissions.values(), *self.uploads.values()):
            taken.clear()
        self.told = None

    @invariant()
    def the_headers_say_what_is_left(self) -> None:
        for name, taken in self.submissions.items():
            left = self.room(taken, SUBMISSIONS)
            allowance = self.world.runner.run(self.world.limits.allowance(self.ids[name]))
            assert allowance is not None
            assert (allowance.limit, allowance.remaining) == (SUBMISSIONS, left)
            assert 1 <= allowance.reset_seconds <= WINDOW_SECONDS + 1


@pytest.fixture
def world(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    short = {
        "rate_window_seconds": WINDOW_SECONDS,
        "submissions_per_window": SUBMISSIONS,
        "uploads_per_window": UPLOADS,
    }
    with asyncio.Runner() as runner:
        # Patience instead of `impatient_redis`: a busy machine would look like a Redis that is away.
        redis = Redis.from_url(settings.redis_url)
        world = World(runner, RateLimits(settings.model_copy(update=short), redis, RedisGuard()), redis)
        clock = SimpleNamespace(time=lambda: world.now)
        monkeypatch.setattr(limits.aio.storage.redis.redispy, "time", clock)
        monkeypatch.setattr(api.rate_limit, "time", clock)
        yield world
        runner.run(redis.aclose())


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_no_window_holds_more_than_its_limit_and_none_refuses_less(world: World) -> None:
    run(Windows, world, examples=60, steps=25)
