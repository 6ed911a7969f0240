"""The shop's grants: once for each reference, by a token that works now for just this, and each use is written down."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from shared import credits, service_tokens
from shared.settings import Settings
from shared.staff_actions import Actor
from shared.staff_models import Scope
from tests.api_client import Client, refused
from tests.rows import money_is_right

pytestmark = pytest.mark.anyio

EMAIL = "Kim@Example.com"
ACTOR = Actor.command("a test")
Grant = Callable[..., Any]


def new_token(engine: Engine, name: str = "shop", days: int | None = None) -> str:
    with Session(engine) as session, session.begin():
        return service_tokens.create(session, ACTOR, name, Scope.GRANTS, days)


def rows(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        done = connection.execute(text(statement))
        return [tuple(row) for row in done] if done.returns_rows else []


def uses(engine: Engine) -> list[tuple[Any, ...]]:
    return rows(
        engine,
        "SELECT a.name, t.name, u.email, a.details FROM staff_actions a JOIN service_tokens t "
        "ON t.id = service_token_id LEFT JOIN users u ON u.id = a.user_id ORDER BY a.id",
    )


@pytest.fixture
def shop(http: httpx.AsyncClient, engine: Engine) -> Grant:
    """Grants as the shop would; `token` is another than its own."""
    own = new_token(engine)

    async def grant(token: str = own, **wish: Any) -> httpx.Response:
        body = {"email": EMAIL, "amount": 10, "reference": "order-1"} | wish
        body = {name: value for name, value in body.items() if value is not None}
        return await http.post("/credits/grants", json=body, headers={"Authorization": f"Bearer {token}"})

    return grant


async def test_a_reference_grants_once_and_says_so(shop: Grant, engine: Engine, settings: Settings) -> None:
    first, again = await shop(), await shop(email=EMAIL.lower())
    assert (first.status_code, again.status_code) == (201, 200)
    told = first.json()
    assert (told["amount"], told["reference"], told["credits"], told["granted"]) == (10, "order-1", 12, True)
    assert again.json() == {**told, "granted": False}
    by_id = await shop(email=None, user_id=told["user_id"], reference="order-2", amount=1)
    assert (by_id.status_code, by_id.json()["credits"]) == (201, 13)
    kinds = rows(engine, "SELECT kind, amount, reference FROM ledger_entries ORDER BY id")
    assert kinds == [("SIGNUP", 2, None), ("GRANT", 10, "order-1"), ("GRANT", 1, "order-2")]
    names = ["credits.granted", "credits.grant_repeated", "credits.granted"]
    assert [use[:3] for use in uses(engine)] == [(name, "shop", EMAIL.lower()) for name in names]
    assert uses(engine)[0][3] == {"amount": 10, "reference": "order-1"}
    money_is_right(engine)


async def test_at_once_from_many_places_it_grants_once(shop: Grant, engine: Engine) -> None:
    answers = await asyncio.gather(*(shop() for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    others = await asyncio.gather(*(shop(email=f"{n}@example.com", reference="order-2") for n in range(4)))
    assert sorted(answer.status_code for answer in others) == [201, 409, 409, 409]
    # Whom a conflict was about was not made a user by it.
    assert rows(engine, "SELECT count(*), sum(credits) FROM users") == [(2, 24)]
    money_is_right(engine)


async def test_a_reference_never_means_two_things(shop: Grant, engine: Engine) -> None:
    await shop()
    for wish in ({"amount": 11}, {"email": "lee@example.com"}):
        assert refused(await shop(**wish), 409, "grant_conflict")["reference"] == "order-1"
    assert [use[0] for use in uses(engine)] == ["credits.granted"] + ["credits.grant_refused"] * 2
    assert uses(engine)[1][3] == {"amount": 11, "reference": "order-1", "code": "grant_conflict"}
    assert rows(engine, "SELECT count(*), sum(credits) FROM users") == [(1, 12)]


@pytest.mark.parametrize(
    "wish",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": 1001},
        {"amount": 2**40},
        {"amount": "many"},
        {"reference": ""},
        {"reference": "x" * 201},
        {"reference": "a\0b"},
        {"reference": f"retry:{uuid4()}"},
        {"reference": f"staff:{uuid4()}"},
        {"reference": None},
        {"email": None},
        {"user_id": str(uuid4())},
        {"email": "nobody"},
        {"email": "a\0b@example.com"},
    ],
)
async def test_what_is_no_grant_grants_nothing(shop: Grant, engine: Engine, wish: dict[str, Any]) -> None:
    refused(await shop(**wish), 400, "invalid_request")
    assert rows(engine, "SELECT count(*) FROM users") == [(0,)]


async def test_an_unknown_id_is_nobody(shop: Grant, engine: Engine) -> None:
    refused(await shop(email=None, user_id=str(uuid4())), 404, "not_found")
    assert [use[0] for use in uses(engine)] == ["credits.grant_refused"]


# --- Tokens


async def test_only_a_token_that_works_now_is_believed(
    shop: Grant, http: httpx.AsyncClient, engine: Engine, settings: Settings
) -> None:
    expired = new_token(engine, "old", days=1)
    rows(engine, "UPDATE service_tokens SET expires_at = now() - interval '1 second' WHERE name = 'old'")
    user = Client(http, settings)
    bad = ["nonsense", "cst_" + "x" * 43, expired, expired[:-1], "", user.headers["Authorization"].split()[1]]
    for token in bad:
        refused(await shop(token=token), 401, "unauthorized")
    refused(await http.post("/credits/grants", json={}), 401, "unauthorized")
    refused(await http.post("/credits/grants", json={}, headers={"Authorization": "Basic x"}), 401, "unauthorized")
    assert uses(engine) == []
    assert rows(engine, "SELECT count(*) FROM users") == [(0,)]


async def test_a_token_opens_nothing_but_grants(http: httpx.AsyncClient, engine: Engine) -> None:
    headers = {"Authorization": f"Bearer {new_token(engine)}"}
    for path in ("/me", "/jobs", "/me/credits"):
        refused(await http.get(path, headers=headers), 401, "unauthorized")
    refused(await http.get("/admin", headers=headers), 404, "not_found")


async def test_tokens_are_rotated_without_a_gap(shop: Grant, engine: Engine) -> None:
    old, new = new_token(engine, "shop-1"), new_token(engine, "shop-2")
    assert (await shop(token=old)).status_code == 201
    assert (await shop(token=new)).status_code == 200
    with Session(engine) as session, session.begin():
        assert service_tokens.revoke(session, ACTOR, "shop-1")
        assert not service_tokens.revoke(session, ACTOR, "shop-1")
    refused(await shop(token=old), 401, "unauthorized")
    assert (await shop(token=new)).status_code == 200
    assert [use[1] for use in uses(engine)] == ["shop-1", "shop-2", "shop-2"]
    # Its name is free again, and means another token.
    again = new_token(engine, "shop-1")
    assert (await shop(token=again)).status_code == 200
    refused(await shop(token=old), 401, "unauthorized")
    with Session(engine) as session, session.begin(), pytest.raises(service_tokens.NameTaken):
        service_tokens.create(session, ACTOR, "shop-2", Scope.GRANTS)


async def test_a_token_is_kept_nowhere_and_its_use_is_noted(shop: Grant, engine: Engine, settings: Settings) -> None:
    token = new_token(engine, "shop-1")
    assert rows(engine, "SELECT last_used_at FROM service_tokens WHERE name = 'shop-1'") == [(None,)]
    await shop(token=token)
    [(used,)] = rows(engine, "SELECT last_used_at FROM service_tokens WHERE name = 'shop-1'")
    assert used is not None
    for table in ("service_tokens", "staff_actions"):
        assert token not in str(rows(engine, f"SELECT * FROM {table}"))
        assert token.removeprefix("cst_") not in str(rows(engine, f"SELECT * FROM {table}"))


async def test_the_bound_of_a_grant_is_a_setting(shop: Grant, engine: Engine) -> None:
    assert (await shop(amount=1000)).status_code == 201
    told = refused(await shop(amount=1001, reference="order-2"), 400, "invalid_request")
    assert (told["fields"], told["reason"]) == (["body.amount"], "at most 1000 credits at once")


async def test_a_user_who_buys_first_and_comes_later_has_one_sign_up_grant(
    shop: Grant, http: httpx.AsyncClient, engine: Engine, settings: Settings
) -> None:
    await shop()
    assert await Client(http, settings, email=EMAIL).balance() == 12
    with Session(engine) as session, session.begin():
        assert len(credits.ledger(session, credits.provision_user(session, EMAIL, 2))) == 2
