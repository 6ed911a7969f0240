"""Azure's limit is kept on our side: over all API processes, whatever Redis forgets, and whatever Azure says."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from api.azure_faces import AzureFaceChecker
from api.face_budget import BURST, KEY, LONGEST_WAIT_SECONDS, SHARE, FaceBudget
from api.faces import FaceVerdict
from shared.errors import FaceCheckUnavailable
from shared.settings import Settings
from tests import photos
from tests.doubles import azure_double
from tests.doubles.processes import start_double
from tests.test_faces import Azure

pytestmark = pytest.mark.anyio

FREE_TIER = 20
FREE_TIER_INTERVAL = 60 / (SHARE * FREE_TIER)
NOBODY = "redis://127.0.0.1:1/0"
# A minute of the double's: short, and long enough that a busy machine's delays are no calls that bunch up.
MINUTE_SECONDS = 5.0
FACE = [{"top": 0, "left": 0, "width": 200, "height": 200}]


@pytest.fixture(scope="module")
def running_azure() -> Iterator[Azure]:
    with start_double("tests.doubles.azure_double") as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield Azure(client)


@pytest.fixture
def azure(running_azure: Azure) -> Azure:
    running_azure.reset()
    running_azure.dial(calls_per_minute=FREE_TIER, minute_seconds=MINUTE_SECONDS, faces=FACE)
    return running_azure


@pytest.fixture
def free_tier(offline_settings: Settings, redis_url: str) -> Settings:
    return offline_settings.model_copy(update={"redis_url": redis_url})


@pytest.fixture
def hurried(free_tier: Settings, azure: Azure) -> Settings:
    """The free tier, with minutes as short as the double's."""
    return free_tier.model_copy(
        update={
            "azure_face_endpoint": azure.url,
            "azure_face_api_key": SecretStr(azure_double.KEY),
            "azure_face_timeout_seconds": 20.0,
            "azure_face_calls_per_minute": int(FREE_TIER * 60 / MINUTE_SECONDS),
        }
    )


@asynccontextmanager
async def budgets(settings: Settings, count: int = 1) -> AsyncIterator[list[FaceBudget]]:
    """As many API processes, each with its own connections and memory."""
    async with AsyncExitStack() as stack:
        made = [FaceBudget(settings) for _ in range(count)]
        for budget in made:
            stack.push_async_callback(budget.close)
        yield made


async def refused(budget: FaceBudget) -> float:
    """After how long the user is told to come back."""
    with pytest.raises(FaceCheckUnavailable) as refusal:
        await budget.turn()
    return float(str(refusal.value.details["retry_after_seconds"]))


async def check_until(settings: Settings, over: Callable[[int], bool]) -> int:
    """Two processes check as often as they can, until `over` says so of the number of checks; that number."""
    made = 0

    async def check(checker: AzureFaceChecker) -> None:
        nonlocal made
        while not over(made):
            try:
                assert await checker.check(photos.one_face(), 512, 512) is FaceVerdict.ONE
                made += 1
            except FaceCheckUnavailable:
                await anyio.sleep(0.05)

    async with AsyncExitStack() as stack:
        checkers = [AzureFaceChecker(settings) for _ in range(2)]
        for checker in checkers:
            stack.push_async_callback(checker.close)
        with anyio.fail_after(100):
            async with anyio.create_task_group() as group:
                for checker in checkers * 4:
                    group.start_soon(check, checker)
    return made


async def test_two_processes_never_cause_a_429_even_when_redis_forgets_in_between(
    azure: Azure, hurried: Settings, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        forgot = False

        def over(made: int) -> bool:
            nonlocal forgot
            if made >= BURST + SHARE * FREE_TIER and not forgot:
                forgot = bool(redis.flushdb())
            return made >= 1.5 * FREE_TIER

        made = await check_until(hurried, over)
    assert forgot
    assert [call["status"] for call in azure.calls()] == [200] * made


async def test_without_a_budget_the_same_clients_would_be_throttled(azure: Azure, hurried: Settings) -> None:
    azure.dial(calls_per_minute=FREE_TIER, faces=FACE)
    endless = hurried.model_copy(update={"azure_face_calls_per_minute": 1_000_000})
    await check_until(endless, lambda made: made >= FREE_TIER)
    assert 429 in [call["status"] for call in azure.calls()]


async def test_turns_are_given_in_order_until_they_are_too_far_away(free_tier: Settings) -> None:
    async with budgets(free_tier, 2) as (first, second):
        assert await first.turn() == 0
        # New, so nothing of the burst is there. The next turn is further away than anybody is made to wait.
        assert await refused(second) == pytest.approx(FREE_TIER_INTERVAL, abs=1)
        assert await refused(first) == pytest.approx(FREE_TIER_INTERVAL, abs=1), "a refusal takes no turn"


async def test_a_turn_that_comes_soon_is_waited_for(free_tier: Settings) -> None:
    paid = free_tier.model_copy(update={"azure_face_calls_per_minute": 120})
    interval = 60 / (SHARE * 120)
    async with budgets(paid, 2) as (first, second):
        waits = [await budget.turn() for budget in (first, second, first)]
        assert waits == pytest.approx([0, interval, 2 * interval], abs=0.2)
        assert await refused(second) > LONGEST_WAIT_SECONDS


async def test_after_a_pause_a_burst_is_there_and_no_more(free_tier: Settings, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(KEY, time.time() - 3600)
    async with budgets(free_tier, 2) as (first, second):
        assert [await budget.turn() for budget in (first, second, first)] == [0] * BURST
        assert await refused(second) > 0


async def test_a_second_of_the_paid_tier_holds_no_more_than_its_ten(free_tier: Settings, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(KEY, time.time() - 3600)
    async with budgets(free_tier.model_copy(update={"azure_face_calls_per_minute": 600})) as (budget,):
        began = time.monotonic()
        turns = [time.monotonic() - began + await budget.turn() for _ in range(15)]
    assert sum(turn < 1 for turn in turns) <= 10


async def test_what_redis_forgot_is_remembered_by_whoever_saw_it(free_tier: Settings, redis_url: str) -> None:
    async with budgets(free_tier, 2) as (seen, new):
        assert await seen.turn() == 0
        with Redis.from_url(redis_url) as redis:
            redis.flushdb()
        assert await refused(seen) > 0
        assert await refused(new) > 0, "and it has told the others"


async def test_a_429_closes_the_budget_for_all_until_then(free_tier: Settings) -> None:
    async with budgets(free_tier, 2) as (throttled, other):
        await throttled.penalise(30)
        assert await refused(other) == pytest.approx(30, abs=1)
        await throttled.penalise(1e9)
        assert await refused(other) <= 601, "for no more than ten minutes"


async def test_the_vendors_429_is_learned_from(azure: Azure, hurried: Settings) -> None:
    azure.dial(faults=["429"], retry_after="30", faces=FACE)
    checker = AzureFaceChecker(hurried)
    async with budgets(hurried) as (other,):
        with pytest.raises(FaceCheckUnavailable):
            await checker.check(photos.one_face(), 512, 512)
        assert await refused(other) == pytest.approx(30, abs=1)
        with pytest.raises(FaceCheckUnavailable):
            await checker.check(photos.one_face(), 512, 512)
    await checker.close()
    assert len(azure.calls()) == 1


async def test_a_second_try_waits_for_its_turn_too(azure: Azure, hurried: Settings) -> None:
    azure.dial(faults=["500"], faces=FACE)
    checker = AzureFaceChecker(hurried.model_copy(update={"azure_face_calls_per_minute": FREE_TIER}))
    with pytest.raises(FaceCheckUnavailable) as refusal:
        await checker.check(photos.one_face(), 512, 512)
    await checker.close()
    assert len(azure.calls()) == 1
    assert refusal.value.details["retry_after_seconds"] in {4, 5}


async def test_without_redis_each_process_goes_on_at_a_quarter_of_the_pace(free_tier: Settings) -> None:
    alone = free_tier.model_copy(update={"redis_url": NOBODY})
    async with budgets(alone) as (budget,):
        assert await budget.turn() == 0
        assert await refused(budget) == pytest.approx(4 * FREE_TIER_INTERVAL, abs=1)
        await budget.penalise(60)
        assert await refused(budget) == pytest.approx(60, abs=1)


async def test_a_redis_whose_clock_went_back_closes_nothing_for_long(free_tier: Settings, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(KEY, time.time() + 1e6)
    async with budgets(free_tier) as (budget,):
        assert await refused(budget) < 620
