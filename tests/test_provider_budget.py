"""The provider's limits are kept on our side: over all workers, whatever Redis forgets and whatever the vendor says."""

import heapq
import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Engine, select
from sqlalchemy.orm import sessionmaker

from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.models import Attempt, Photo
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.predictor_orders import an_order, started
from tests.rows import accepted_job
from tests.scripted_predictor import ScriptedPredictor
from tests.waiting import wait_until
from worker import provider_budget
from worker.budgeted_predictor import REASON
from worker.generation import Generation
from worker.predictor import NotYet, Predictor, RequestKind, open_predictor
from worker.provider_budget import Pace, ProviderBudget
from worker.replicate_predictor import ReplicatePredictor

PER_MINUTE = 240
BURST = 10  # of the double: little more than ours
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def vendor() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "200") as vendor:
        yield vendor


@pytest.fixture
def budget_settings(offline_settings: Settings, redis_url: str) -> Settings:
    return offline_settings.model_copy(
        update={"redis_url": redis_url, "replicate_creates_per_minute": PER_MINUTE, "predictor": "replicate"}
    )


@pytest.fixture
def budget(budget_settings: Settings) -> ProviderBudget:
    return ProviderBudget(budget_settings)


def with_account(settings: Settings, vendor: DoubledReplicate) -> Settings:
    account = {"replicate_base_url": vendor.url, "replicate_api_token": SecretStr(vendor.token)}
    return settings.model_copy(update=account)


def opened(settings: Settings, vendor: DoubledReplicate) -> Predictor:
    """A predictor as a worker process opens it, with a budget of its own."""
    return open_predictor(with_account(settings, vendor))


def creates(vendor: DoubledReplicate) -> list[float]:
    """When each create that was not refused came in, in seconds."""
    return [
        entry["at"] for entry in vendor.book("requests") if entry["operation"] == "create" and entry["status"] == 201
    ]


PLENTY = {"ratelimit-remaining": "599", "ratelimit-reset": "1"}
KINDS: tuple[RequestKind, ...] = ("create", "other")


class Clock:
    """The budget's clock, put forward by hand: everything that Redis knows of moves into the past."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._ahead = 0.0

    def now(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds + microseconds / 1e6 + self._ahead)

    def pass_time(self, seconds: float) -> None:
        self._ahead += seconds
        for kind in KINDS:
            names = ("bucket", "unanswered", "told", "turns", "users")
            bucket, *sets = [f"cuggu:budget:{{{kind}}}:{name}" for name in names]
            saved = self._client.get(bucket)
            with self._client.pipeline() as all_at_once:
                for key in sets:
                    for member, _ in self._client.zrange(key, 0, -1, withscores=True):
                        all_at_once.zincrby(key, -seconds, member)
                if saved:
                    all_at_once.set(bucket, json.dumps(_earlier(json.loads(saved), seconds)), keepttl=True)
                all_at_once.execute()


def _earlier(state: dict[str, Any], seconds: float) -> dict[str, Any]:
    moments = {"at", "closed_until", "heard_at", "left_until", "ends_at"}
    return {
        name: _earlier(value, seconds) if isinstance(value, dict) else value - seconds if name in moments else value
        for name, value in state.items()
    }


def answered(budget: ProviderBudget, kind: RequestKind = "create", **said: str) -> None:
    """The vendor's answer to what this thread sent last."""
    budget.note_limits(kind, {f"ratelimit-{name}": value for name, value in said.items()} or PLENTY)


def take(
    budget: ProviderBudget, kind: RequestKind, user_id: UUID | None = None, request_id: int | None = None
) -> float:
    """Asks for one request; each thread has one of its own that it asks for again and again."""
    return budget.take(kind, str(request_id or threading.get_ident()), user_id)


def elsewhere(ask: Callable[[], float]) -> float:
    """What another thread is told."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(ask).result()


def used_up(budget: ProviderBudget, kind: RequestKind = "create", user_id: UUID | None = None) -> int:
    """How many requests were granted, one by one and each answered, until one was refused."""
    count = 0
    while take(budget, kind, user_id) == 0:
        answered(budget, kind)
        count += 1
        assert count < 1000
    return count


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def clock(client: redis.Redis) -> Clock:
    return Clock(client)


# --- Any minute


@pytest.mark.parametrize(("per_minute", "burst_max"), [(0.5, None), (1, None), (6, 0), (6, 1)])
def test_any_pace_lets_one_request_through(per_minute: float, burst_max: int | None) -> None:
    assert Pace.below(per_minute, burst_max).burst == 1


@given(st.integers(1, 1_000_000))
def test_no_minute_holds_more_than_the_limit(per_minute: int) -> None:
    pace = Pace.below(per_minute)
    assert int(pace.burst + 60 * pace.rate) <= per_minute
    assert pace.burst >= 1
    assert 60 * pace.rate >= 0.9 * per_minute


@given(st.integers(60, 100_000))
def test_requests_that_bunch_up_for_a_second_still_fit_in(per_minute: int) -> None:
    pace = Pace.below(per_minute)
    assert pace.burst + 61 * pace.rate <= per_minute + 1e-6


def test_a_greedy_worker_stays_below_the_limit_in_every_minute_and_uses_it(
    budget: ProviderBudget, budget_settings: Settings, clock: Clock, client: redis.Redis
) -> None:
    granted_at: list[float] = []
    began = clock.now()
    forgotten = False
    while (now := clock.now() - began) < 180:
        if wait := take(budget, "create"):
            clock.pass_time(wait)
        else:
            answered(budget)
            granted_at.append(now)
        if now > 90 and not forgotten:
            forgotten = True
            client.flushdb()
            budget = ProviderBudget(budget_settings)  # the worker is restarted, too: nobody remembers
    for start in range(len(granted_at)):
        minute = [at for at in granted_at[start:] if at < granted_at[start] + 60]
        assert len(minute) <= PER_MINUTE
    assert len(granted_at) >= 0.9 * 3 * PER_MINUTE


# --- Over real HTTP, against the limits that the double keeps


WORKER = """
import json, sys, threading
from shared.settings import get_settings
from tests.predictor_orders import an_order, started
from worker.predictor import open_predictor
predictor = open_predictor(get_settings())
orders = int(sys.argv[1])
threads = [threading.Thread(target=started, args=(predictor, an_order(), 60.0)) for _ in range(orders)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_two_processes_share_the_limit_and_never_go_over_it(
    budget_settings: Settings, vendor: DoubledReplicate
) -> None:
    # Roomier than ours: at the very edge the headers say that nothing is left, and we wait for the reset.
    vendor.turn(creates_per_minute=PER_MINUTE, create_burst=2 * BURST)
    started(opened(budget_settings, vendor), an_order())  # the bucket fills while the processes start
    env = {
        **os.environ,
        "DATABASE_URL": budget_settings.database_url,
        "REDIS_URL": budget_settings.redis_url,
        "PREDICTOR": "replicate",
        "REPLICATE_BASE_URL": vendor.url,
        "REPLICATE_API_TOKEN": vendor.token,
        "REPLICATE_CREATES_PER_MINUTE": str(PER_MINUTE),
    }
    each = 12
    command = [sys.executable, "-c", WORKER, str(each)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[1], env=env, **pipes) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.wait(timeout=60)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert vendor.book("refused") == []
    # How much of the limit is used is measured above, on a clock that no other test's load can slow down.
    assert len(creates(vendor)[1:]) == 2 * each


def test_what_redis_forgets_in_the_middle_costs_no_429(
    budget_settings: Settings, vendor: DoubledReplicate, client: redis.Redis
) -> None:
    vendor.turn(creates_per_minute=PER_MINUTE, create_burst=BURST)
    predictors = [opened(budget_settings, vendor) for _ in range(2)]
    with ThreadPoolExecutor(24) as threads:
        started_all = threads.map(lambda number: started(predictors[number % 2], an_order()), range(24))
        for stored in (6, 12, 18):
            wait_until(lambda at_least=stored: len(creates(vendor)) >= at_least)
            client.flushdb()
        assert len(list(started_all)) == 24
    assert vendor.book("refused") == []


def test_an_account_with_little_credit_is_known_by_the_first_answer(
    budget_settings: Settings, vendor: DoubledReplicate
) -> None:
    vendor.turn(low_credit=True)
    predictors = [opened(budget_settings, vendor) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: predictors[number % 2].start(an_order()), range(8)))
    answers += [predictor.start(an_order()) for predictor in predictors]
    assert [answer.reason for answer in answers if isinstance(answer, NotYet)] == [REASON] * 9
    assert len(creates(vendor)) == 1
    assert vendor.book("refused") == []


def test_one_429_teaches_all_workers_the_reduced_rate(
    budget_settings: Settings, vendor: DoubledReplicate, client: redis.Redis
) -> None:
    vendor.turn(low_credit=True)
    started(ReplicatePredictor(with_account(budget_settings, vendor)), an_order())  # another user of the account
    predictors = [opened(budget_settings, vendor) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: predictors[number % 2].start(an_order()), range(8)))
        for predictor in predictors:
            assert isinstance(predictor.start(an_order()), NotYet)
        client.flushdb()
        order = an_order()
        wait_until(lambda: not isinstance(predictors[0].start(order), NotYet), 20)
        list(threads.map(lambda number: predictors[number % 2].start(an_order()), range(8)))
    assert len(vendor.book("refused")) == 1
    first, second = creates(vendor)
    assert 10 <= second - first < 14


# --- What the vendor says


def test_never_more_is_assumed_than_the_vendor_says_is_left(budget: ProviderBudget, clock: Clock) -> None:
    take(budget, "create")
    answered(budget, remaining="1", reset="20")
    clock.pass_time(10)  # the bucket itself is full
    assert take(budget, "create") == 0
    assert elsewhere(lambda: take(budget, "create")) > 0, "the answer to the last one is still to come"
    answered(budget, remaining="0", reset="20")
    assert take(budget, "create") >= 20
    assert take(budget, "other") == 0
    clock.pass_time(25)
    with ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as third:
        assert take(budget, "create") == second.submit(take, budget, "create").result() == 0
        more = third.submit(take, budget, "create").result()
    assert more > 0, "after the reset, too, it may have no more than it ever had"


def test_before_the_first_answer_creates_go_one_at_a_time(budget: ProviderBudget, clock: Clock) -> None:
    assert take(budget, "create") == 0
    assert elsewhere(lambda: take(budget, "create")) > 0
    answered(budget)
    clock.pass_time(5)
    assert take(budget, "create") == elsewhere(lambda: take(budget, "create")) == 0
    answered(budget)
    clock.pass_time(700)  # an idle time, in which the account may have changed
    assert take(budget, "create") == 0
    assert elsewhere(lambda: take(budget, "create")) > 0
    clock.pass_time(11)  # no answer will come any more
    assert elsewhere(lambda: take(budget, "create")) == 0


@pytest.mark.parametrize("said", [{"other": ""}, {"remaining": "many"}, {"remaining": "9"}, {"reset": "-1"}])
def test_headers_that_say_little_or_nonsense_stop_nobody(
    budget: ProviderBudget, clock: Clock, said: dict[str, str]
) -> None:
    for _ in range(2):
        assert take(budget, "create") == 0
        answered(budget, **said)
        clock.pass_time(5)
    assert take(budget, "create") == elsewhere(lambda: take(budget, "create")) == 0


def test_requests_that_nobody_asked_for_are_paid_for_afterwards(budget: ProviderBudget) -> None:
    assert take(budget, "other") == 0
    for _ in range(101):  # the pages of a list
        answered(budget, "other")
    assert take(budget, "other") > 1


def test_a_429_closes_the_bucket_for_all_and_redis_cannot_forget_it(
    budget: ProviderBudget, budget_settings: Settings, client: redis.Redis, clock: Clock
) -> None:
    other = ProviderBudget(budget_settings)
    budget.penalise("create", 30)
    assert 29 <= take(other, "create") <= 31
    client.flushdb()
    assert 29 <= take(other, "create") <= 31
    assert take(other, "other") == 0
    clock.pass_time(32)
    assert take(other, "create") == 0


def test_a_reduced_rate_ends_when_the_headers_show_that_more_is_left(budget: ProviderBudget, clock: Clock) -> None:
    take(budget, "create")
    answered(budget, remaining="0", reset="9")
    budget.penalise("create", 9, (6, 1))
    for _ in range(50):  # far longer than a reduction holds without news of it
        clock.pass_time(11)
        assert take(budget, "create") == 0
        answered(budget, remaining="0", reset="9")
        assert take(budget, "create") >= 10
    clock.pass_time(11)
    assert take(budget, "create") == 0
    answered(budget)
    clock.pass_time(1)
    assert take(budget, "create") == 0


def test_headers_of_another_limit_do_not_end_a_reduced_rate(budget: ProviderBudget, clock: Clock) -> None:
    take(budget, "create")
    answered(budget)  # the 429 itself says that 599 are left
    budget.penalise("create", 9, (6, 1))
    clock.pass_time(11)
    assert take(budget, "create") == 0
    answered(budget)
    assert take(budget, "create") > 10


def test_a_reduced_rate_of_which_nothing_is_heard_is_probed_by_one_create_at_a_time(
    budget: ProviderBudget, clock: Clock
) -> None:
    budget.penalise("create", 9, (6, 1))
    clock.pass_time(301)
    assert take(budget, "create") == 0
    clock.pass_time(5)
    assert elsewhere(lambda: take(budget, "create")) > 0
    answered(budget, other="")
    budget.penalise("create", 9, (6, 1))
    clock.pass_time(9)
    assert take(budget, "create") > 1


# --- What Redis forgets, and Redis away


def test_a_lost_bucket_does_not_come_back_full(
    budget: ProviderBudget, budget_settings: Settings, client: redis.Redis, clock: Clock
) -> None:
    take(budget, "other")
    answered(budget, "other")
    clock.pass_time(60)
    full = used_up(budget, "other")
    client.flushdb()
    assert take(budget, "other") > 0, "who saw it remembers that it was in use"
    client.flushdb()
    assert used_up(ProviderBudget(budget_settings), "other") < full / 4


def test_every_key_is_ours_and_none_stays_for_ever(budget: ProviderBudget, client: redis.Redis) -> None:
    assert elsewhere(lambda: take(budget, "other")) == 0
    for _ in range(8):
        take(budget, "create", uuid4())
        answered(budget)
        take(budget, "other")
    budget.penalise("create", 1)
    take(budget, "create", uuid4())
    keys = list(client.scan_iter())
    assert {key.rpartition(b":")[2] for key in keys} == {b"bucket", b"unanswered", b"told", b"turns", b"users"}
    for key in keys:
        assert key.startswith(b"cuggu:budget:"), key
        assert client.ttl(key) > 0, key


def test_with_redis_away_work_goes_on_slowly(budget_settings: Settings) -> None:
    alone = ProviderBudget(budget_settings.model_copy(update={"redis_url": NOBODY}))
    assert take(alone, "create") == 0
    answered(alone)
    assert 2 < take(alone, "create") <= 10 / Pace.below(PER_MINUTE).rate
    assert take(alone, "other") == 0
    wait_until(lambda: take(alone, "create") == 0, 10)
    alone.penalise("other", 30)
    assert 29 <= take(alone, "other") <= 30


def test_a_redis_that_hangs_is_not_waited_for_again_and_again(budget_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        alone = ProviderBudget(budget_settings.model_copy(update={"redis_url": url}))
        began = time.monotonic()
        for _ in range(20):
            take(alone, "other")
        assert time.monotonic() - began < 4


def test_what_was_learned_holds_while_redis_is_away(budget: ProviderBudget) -> None:
    budget.penalise("create", 0.5, (6, 1))
    budget._left_alone_until = time.monotonic() + 60  # as after a failure
    assert take(budget, "create") > 0
    wait_until(lambda: take(budget, "create") == 0, 10)
    assert take(budget, "create") > 60


# --- Users


class Rush:
    """Photos that ask when they are told to, as the sweep finds them: in steps of a second, and a little late."""

    def __init__(self, budget: ProviderBudget, clock: Clock) -> None:
        self.budget, self.clock = budget, clock
        self.due: list[tuple[float, int, UUID]] = []
        self.granted: list[tuple[float, UUID]] = []
        self.waited: list[float] = []
        self.submitted_at: list[float] = []
        self.asked = self.photos = 0

    def submit(self, user_id: UUID, photos: int, at: float = 0.0) -> None:
        for number in range(self.photos, self.photos + photos):
            heapq.heappush(self.due, (at, number, user_id))
            self.submitted_at.append(at)
        self.photos += photos

    def run(self) -> None:
        began, chance = self.clock.now(), random.Random(7)
        while self.due:
            at, number, user_id = heapq.heappop(self.due)
            self.clock.pass_time(max(0.0, at - (self.clock.now() - began)))
            self.asked += 1
            if wait := take(self.budget, "create", user_id, 1 + number):
                swept = math.ceil(self.clock.now() - began + wait)
                heapq.heappush(self.due, (swept + chance.uniform(0, 0.3), number, user_id))
            else:
                answered(self.budget)
                self.granted.append((self.clock.now() - began, user_id))
                self.waited.append(self.clock.now() - began - self.submitted_at[number])

    def last(self, user_id: UUID) -> float:
        return max(at for at, whose in self.granted if whose == user_id)


def test_a_hundred_photos_of_one_user_do_not_starve_four_of_another(budget: ProviderBudget, clock: Clock) -> None:
    many, few = uuid4(), uuid4()
    rush = Rush(budget, clock)
    rush.submit(many, 100)
    rush.submit(few, 4, at=5.0)
    rush.run()
    pace = Pace.below(PER_MINUTE)
    assert rush.last(few) - 5 < 8 / pace.rate + 2, "four in turn with four of the other's"
    assert rush.last(many) < 1.15 * 104 / pace.rate, "taking turns costs no throughput"


def test_a_rush_is_served_in_its_order_and_leaves_no_token_unused(budget: ProviderBudget, clock: Clock) -> None:
    users = [uuid4() for _ in range(40)]
    rush = Rush(budget, clock)
    for user_id in users:
        rush.submit(user_id, 4)
    rush.run()
    pace = Pace.below(PER_MINUTE)
    at_best = (rush.photos - pace.burst) / pace.rate
    assert rush.granted[-1][0] < 1.15 * at_best
    assert max(map(rush.last, users[:10])) < at_best / 2
    assert rush.asked < 5 * rush.photos


def test_nobody_is_overtaken_for_ever_by_those_who_come_later(budget: ProviderBudget, clock: Clock) -> None:
    pace = Pace.below(PER_MINUTE)
    rush = Rush(budget, clock)
    for _ in range(40):
        rush.submit(uuid4(), 4)
    queue_seconds = rush.photos / pace.rate
    for number in range(60):  # as many as can be served, so the queue stays as long as it is
        rush.submit(uuid4(), 4, at=number * 4 / pace.rate)
    rush.run()
    assert max(rush.waited) < 1.25 * queue_seconds


def test_those_who_are_left_do_not_wait_for_those_who_are_gone(budget: ProviderBudget, clock: Clock) -> None:
    pace = Pace.below(PER_MINUTE)
    here = uuid4()
    rush = Rush(budget, clock)
    for number in range(200):  # they ask once, and are canceled
        take(budget, "create", uuid4(), 1000 + number)
    rush.submit(here, 40)
    rush.run()
    assert rush.last(here) < provider_budget.LINE_SECONDS + 40 / pace.rate


def test_one_who_waits_alone_is_told_the_moment(budget: ProviderBudget) -> None:
    alone = uuid4()
    used_up(budget, user_id=alone)
    assert 0 < take(budget, "create", alone) <= 1 / Pace.below(PER_MINUTE).rate


def test_what_was_not_used_is_given_back(budget: ProviderBudget) -> None:
    used = 0
    while take(budget, "create") == 0:
        budget.give_back("create")
        assert take(budget, "create") == 0
        answered(budget)
        used += 1
    assert used >= 1


# --- In the journey of a photo


class Exhausted(ScriptedPredictor):
    asked: UUID | None = None

    def ready(self, photo_id: UUID, user_id: UUID) -> NotYet | None:
        self.asked = user_id
        return NotYet(30, REASON)


def test_a_photo_without_budget_is_no_attempt_and_comes_again_later(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    predictor = Exhausted()
    sessions = sessionmaker(engine, expire_on_commit=False)
    notes = ChangeNotes(settings.redis_url)
    generation = Generation(sessions, DiskStorage(tmp_path), predictor, notes, settings)
    user_id, _, photo_ids = accepted_job(engine)
    generation.start(photo_ids[0])
    assert predictor.asked == user_id
    assert predictor.orders == []
    with sessions() as session:
        photo = session.get_one(Photo, photo_ids[0])
        assert (photo.status, photo.lease_token) == (PhotoStatus.PENDING, None)
        assert photo.next_check_at > datetime.now(UTC) + timedelta(seconds=25)
        assert session.scalars(select(Attempt)).all() == []
