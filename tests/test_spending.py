"""No new jobs while they are paused, or once the month's budget is spent: nothing is charged, what runs finishes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from api.errors import PROBLEMS
from shared import spending
from shared.database import make_engine
from shared.disk_storage import DiskStorage
from shared.free_retry import NotRetried, retry_free_of_charge
from shared.queue import JobQueue, make_celery
from shared.settings import Settings
from shared.spending import Spending
from shared.staff_actions import Actor
from tests import photos as pictures
from tests.api_client import Client, finish, refused, serve
from tests.rows import accepted_job, money_is_right

pytestmark = pytest.mark.anyio

ACTOR = Actor.command("a test")
PRICE = Decimal("0.045")


def paid(settings: Settings, budget: str | None) -> Settings:
    """As with a provider that costs something."""
    return settings.model_copy(
        update={"predictor": "replicate", "monthly_budget_usd": None if budget is None else Decimal(budget)}
    )


def sql(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        done = connection.execute(text(statement))
        return [tuple(row) for row in done] if done.returns_rows else []


def pause(engine: Engine, reason: str = "the bill") -> bool:
    with Session(engine) as session, session.begin():
        return spending.pause(session, ACTOR, reason)


def resume(engine: Engine) -> bool:
    with Session(engine) as session, session.begin():
        return spending.resume(session, ACTOR)


def month_cost(engine: Engine, spending: Spending) -> tuple[Decimal, Decimal]:
    with Session(engine) as session:
        cost = spending.month_cost(session)
    return cost.booked, cost.expected


# --- The switch


async def test_while_paused_nothing_is_taken_and_nothing_charged(client: Client, engine: Engine) -> None:
    running = (await client.submit(**{"Idempotency-Key": "known"})).json()
    assert pause(engine)
    answer = await client.submit()
    told = refused(answer, 503, "paused")
    assert answer.headers["retry-after"] == str(told["retry_after_seconds"]) == "300"
    assert told["detail"] == PROBLEMS["paused"].ko
    assert "the bill" not in answer.text, "users are not told why"
    english = await client.submit(**{"Accept-Language": "en"})
    assert english.json()["detail"] == PROBLEMS["paused"].en
    assert await client.balance() == 1
    # What is known already is answered as ever.
    again = await client.submit(**{"Idempotency-Key": "known"})
    assert (again.status_code, again.json()["id"]) == (200, running["id"])
    refused(await client.submit(style="MODERN", **{"Idempotency-Key": "known"}), 409, "idempotency_conflict")
    assert (await client.http.get("/readyz")).status_code == 200
    finish(engine, client.settings, running)
    assert (await client.get(f"/jobs/{running['id']}")).json()["status"] == "COMPLETED"
    assert resume(engine)
    assert (await client.submit()).status_code == 202
    money_is_right(engine)


async def test_the_plans_routes_refuse_alike(client: Client, engine: Engine) -> None:
    pause(engine)
    files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
    answer = await client.http.post("/api/ai/generate", files=files, data={"style": "CLASSIC"}, headers=client.headers)
    assert (answer.status_code, answer.json()) == (503, {"error": PROBLEMS["paused"].en})
    assert answer.headers["retry-after"] == "300"
    assert (await client.get("/api/ai/generations")).json()["data"] == []


async def test_a_submission_on_its_way_when_the_switch_is_turned_is_refused(
    client: Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = DiskStorage.put

    def pausing(self: DiskStorage, *what: Any) -> None:
        put(self, *what)
        pause(engine)

    monkeypatch.setattr(DiskStorage, "put", pausing)
    refused(await client.submit(), 503, "paused")
    assert await client.balance() == 2
    assert sql(engine, "SELECT count(*) FROM jobs") == [(0,)]
    [(due,)] = sql(engine, "SELECT count(*) FROM loose_objects WHERE delete_after <= now()")
    assert due == 1, "its portrait is let go"


async def test_one_pause_at_a_time_and_each_turn_is_written_down(engine: Engine) -> None:
    turns = [pause(engine), pause(engine, "another"), resume(engine), resume(engine), pause(engine, "again")]
    assert turns == [True, False, True, False, True]
    assert sql(engine, "SELECT reason, ended_at IS NULL FROM pauses ORDER BY began_at") == [
        ("the bill", False),
        ("again", True),
    ]
    told = sql(engine, "SELECT name, details ->> 'reason' FROM staff_actions ORDER BY id")
    assert told == [("jobs.paused", "the bill"), ("jobs.resumed", None), ("jobs.paused", "again")]


async def test_a_free_retry_is_a_new_job_too(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job, stored=0)
    pause(engine)
    with pytest.raises(NotRetried, match="paused"):
        retry_free_of_charge(
            engine,
            DiskStorage(settings.data_dir / "objects"),
            JobQueue(make_celery(settings), settings.redis_url),
            job["id"],
            "it was us",
            actor=ACTOR,
            spending=Spending(settings),
            deadline_seconds=60,
            delivery_wanted=False,
        )
    assert await client.balance() == 2


# --- The budget


@pytest.fixture
async def with_budget(settings: Settings) -> AsyncIterator[Callable[[str], Any]]:
    """The application with this budget, and a user of it."""
    async with AsyncExitStack() as stack:

        async def begin(budget: str) -> Client:
            changed = paid(settings, budget)
            http: httpx.AsyncClient = await stack.enter_async_context(_serving(changed))
            return Client(http, changed)

        yield begin


def _serving(settings: Settings) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def serving() -> AsyncIterator[httpx.AsyncClient]:
        async with AsyncExitStack() as stack:
            yield await serve(stack, settings)

    return serving()


async def test_a_job_counts_from_its_acceptance_and_the_next_is_refused(
    with_budget: Callable[[str], Any], engine: Engine
) -> None:
    client = await with_budget("0.20")  # one job of four photos is expected to cost 0.18
    assert (await client.submit()).status_code == 202
    assert (await client.submit()).status_code == 202, "0.18 of 0.20 are spent: the limit is not reached"
    await asyncio.to_thread(sql, engine, "UPDATE users SET credits = credits + 5")
    answer = await client.submit()
    told = refused(answer, 503, "paused")
    assert told["retry_after_seconds"] == 3600
    sql(engine, "UPDATE users SET credits = credits - 5")
    assert await client.balance() == 0
    money_is_right(engine)


async def test_many_submissions_at_the_limit_overshoot_by_no_more_than_were_on_their_way(
    with_budget: Callable[[str], Any], engine: Engine
) -> None:
    """Each looks and commits; whoever looked before another's commit did not see it. Nine at once is all there is."""
    client = await with_budget("0.36")
    people = [Client(client.http, client.settings) for _ in range(10)]
    assert (await people[0].submit()).status_code == 202
    answers = await asyncio.gather(*(person.submit() for person in people[1:]))
    accepted = [answer.status_code for answer in answers].count(202)
    assert {answer.status_code for answer in answers} <= {202, 503}
    assert 1 <= accepted <= 9
    assert sql(engine, "SELECT count(*) FROM jobs") == [(1 + accepted,)]
    balances = [await person.balance() for person in people[1:]]
    assert balances == [1 if answer.status_code == 202 else 2 for answer in answers]
    # From then on everybody sees all of it.
    late = await asyncio.gather(*(person.submit() for person in people))
    assert {answer.status_code for answer in late} == {503}
    money_is_right(engine)


async def test_the_cost_is_what_sql_says_and_what_is_in_work_by_the_list(engine: Engine, settings: Settings) -> None:
    month = Spending(paid(settings, "1"))
    assert month_cost(engine, month) == (Decimal(0), Decimal(0))
    _, _, photo_ids = accepted_job(engine)
    assert month_cost(engine, month) == (Decimal(0), 4 * PRICE)
    insert = (
        "INSERT INTO attempts (id, photo_id, number, provider, model, seed, outcome, cost, ended_at, close_due_at) "
        "VALUES (gen_random_uuid(), '{}', {}, 'replicate', 'm', 1, '{}', {}, {}, {})"
    )
    ended = [
        (photo_ids[0], 1, "SUCCEEDED", "0.0450", "now()", "NULL"),
        (photo_ids[1], 1, "SUCCEEDED", "0.0400", "date_trunc('month', now(), 'UTC')", "NULL"),
        (photo_ids[2], 1, "SUCCEEDED", "9", "date_trunc('month', now(), 'UTC') - interval '1 us'", "NULL"),
        (photo_ids[3], 1, "CANCELED", "0", "now()", "now()"),  # a duplicate that is still to be stopped and booked
    ]
    for row in ended:
        sql(engine, insert.format(*row))
    month = Spending(paid(settings, "1"))
    assert month_cost(engine, month) == (Decimal("0.0850"), 5 * PRICE)
    # The sum that is remembered and what came since are still what SQL says.
    assert month_cost(engine, Spending(paid(settings, "1"))) == month_cost(engine, month)
    sql(engine, insert.format(photo_ids[0], 2, "FAILED", "0.0300", "now()", "NULL"))
    [(booked,)] = sql(engine, "SELECT sum(cost) FROM attempts WHERE ended_at >= date_trunc('month', now(), 'UTC')")
    assert month_cost(engine, month)[0] == booked == Decimal("0.1150")
    free = Spending(settings.model_copy(update={"monthly_budget_usd": Decimal(1)}))
    assert month_cost(engine, free) == (booked, Decimal(0)), "previews in work cost nothing"


async def test_a_new_month_begins_at_nothing(engine: Engine, settings: Settings, database_url: str) -> None:
    _, _, photo_ids = accepted_job(engine)
    sql(
        engine,
        "INSERT INTO attempts (id, photo_id, number, provider, model, seed, outcome, cost, ended_at) VALUES "
        f"(gen_random_uuid(), '{photo_ids[0]}', 1, 'replicate', 'm', 1, 'SUCCEEDED', 5, now())",
    )
    sql(engine, "UPDATE photos SET status = 'CANCELED'")
    month = Spending(paid(settings, "5"))
    with Session(engine) as session, pytest.raises(spending.Paused):
        month.refuse_if_paused(session)
    sql(
        engine,
        "CREATE OR REPLACE FUNCTION cuggu_now() RETURNS timestamptz LANGUAGE sql STABLE "
        "AS $$SELECT now() + interval '32 days'$$",
    )
    later = make_engine(database_url, transaction_pooling=False)
    try:
        with Session(later) as session:
            month.refuse_if_paused(session)
            assert month.month_cost(session).booked == 0
    finally:
        later.dispose()


async def test_without_a_budget_nothing_is_too_dear(engine: Engine, settings: Settings) -> None:
    accepted_job(engine)
    with Session(engine) as session:
        Spending(paid(settings, None)).refuse_if_paused(session)
        with pytest.raises(spending.Paused):
            Spending(paid(settings, "0")).refuse_if_paused(session)
