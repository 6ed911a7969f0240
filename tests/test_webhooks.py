"""The provider's webhooks at our door: who is believed, how often, and how little follows from it."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from shared.leases import claim
from shared.photos import open_attempt
from shared.queue import COLLECT_QUEUE
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.api_client import refused, serve
from tests.rows import accepted_job

pytestmark = pytest.mark.anyio

OLD, NEW = (f"whsec_{letter * 32}" for letter in "AB")
BODY = b'{"id": "abc", "status": "succeeded", "output": ["https://replicate.delivery/x"]}'


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    rotating = settings.model_copy(update={"replicate_webhook_secrets": (SecretStr(NEW), SecretStr(OLD))})
    async with AsyncExitStack() as stack:
        yield await serve(stack, rotating)


def signed(secret: str = NEW, webhook_id: str = "msg_1", age_seconds: float = 0, body: bytes = BODY) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
        "content-type": "application/json",
    }


async def send(http: httpx.AsyncClient, headers: dict[str, str], body: bytes = BODY) -> httpx.Response:
    return await http.post(f"/webhooks/replicate?photo={uuid4()}&attempt={uuid4()}", content=body, headers=headers)


def waiting(redis_url: str) -> int:
    with Redis.from_url(redis_url) as redis:
        return int(redis.llen(COLLECT_QUEUE))  # type: ignore[arg-type]


async def test_a_signed_webhook_is_one_hint_to_collect(http: httpx.AsyncClient, redis_url: str) -> None:
    assert (await send(http, signed())).status_code == 204
    assert waiting(redis_url) == 1
    assert (await send(http, signed())).status_code == 204, "a resend is welcome and changes nothing"
    assert waiting(redis_url) == 1
    assert (await send(http, signed(OLD, "msg_2"))).status_code == 204, "the secret being rotated out"
    assert waiting(redis_url) == 2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (BODY, "abc"),
        (b'{"id": "../account"}', None),
        (b'{"status": "succeeded"}', None),
        (b"[]", None),
        (b"\x00", None),
    ],
)
async def test_of_the_body_only_a_predictions_id_is_handed_on(
    http: httpx.AsyncClient, redis_url: str, body: bytes, named: str | None
) -> None:
    assert (await send(http, signed(body=body), body)).status_code == 204
    with Redis.from_url(redis_url) as redis:
        message = json.loads(redis.lindex(COLLECT_QUEUE, 0))  # type: ignore[arg-type]
    _args, options, _embedded = json.loads(base64.b64decode(message["body"]))
    assert options == {"hinted": True, "prediction_id": named}


async def test_any_of_several_signatures_will_do(http: httpx.AsyncClient) -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1,{'A' * 43}= v2,xyz nonsense {headers['webhook-signature']}"
    assert (await send(http, headers)).status_code == 204


async def test_signatures_are_compared_in_constant_time(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else compares would tell, by how long it takes, how much of a forged signature was right."""
    compared: list[bytes] = []

    def never_equal(_ours: bytes, theirs: bytes) -> bool:
        compared.append(theirs)
        return False

    monkeypatch.setattr("hmac.compare_digest", never_equal)
    headers = signed()
    refused(await send(http, headers), 401, "unauthorized")
    signature = base64.b64decode(headers["webhook-signature"].removeprefix("v1,"))
    assert compared == [signature] * 2, "once for each of our secrets"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(f"whsec_{'C' * 32}"),
        {**signed(), "webhook-id": "msg_other"},
        {**signed(), "webhook-timestamp": str(int(datetime.now(UTC).timestamp()) - 1)},
        {**signed(), "webhook-timestamp": "yesterday"},
        {**signed(), "webhook-signature": "v1,"},
        {**signed(), "webhook-signature": "nonsense"},
        {**signed(), "webhook-signature": ""},
    ],
)
async def test_a_forged_webhook_changes_nothing(
    http: httpx.AsyncClient, redis_url: str, headers: dict[str, str]
) -> None:
    refused(await send(http, headers), 401, "unauthorized")
    assert waiting(redis_url) == 0


async def test_a_stale_or_changed_webhook_changes_nothing(http: httpx.AsyncClient, redis_url: str) -> None:
    refused(await send(http, signed(age_seconds=301)), 401, "unauthorized")
    refused(await send(http, signed(age_seconds=-302)), 401, "unauthorized")
    refused(await send(http, signed(), BODY + b" "), 401, "unauthorized")
    refused(await send(http, signed(), b"\xff\xfe"), 401, "unauthorized")
    assert waiting(redis_url) == 0


@pytest.mark.parametrize("said", ["succeeded", "failed", "canceled"])
async def test_a_webhook_is_a_hint_and_changes_no_row(http: httpx.AsyncClient, engine: Engine, said: str) -> None:
    """What the provider says about a prediction is asked for, and not taken from whoever comes."""
    _, _, photo_ids = accepted_job(engine)
    with Session(engine) as session, session.begin():
        held = claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert held is not None
        attempt = open_attempt(session, held, "replicate", "a-model")

    def rows() -> list[Any]:
        with engine.connect() as connection:
            tables = ("jobs", "photos", "attempts", "job_events")
            return [connection.execute(text(f"SELECT * FROM {table} ORDER BY id")).all() for table in tables]

    before = rows()
    body = json.dumps({"id": "abc", "status": said, "output": ["https://replicate.delivery/x"]}).encode()
    address = f"/webhooks/replicate?photo={photo_ids[0]}&attempt={attempt.id}"
    assert (await http.post(address, content=body, headers=signed(body=body))).status_code == 204
    assert rows() == before


async def test_without_a_secret_nobody_is_believed(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        refused(await send(await serve(stack, settings), signed()), 401, "unauthorized")


async def test_a_body_without_end_is_not_read(http: httpx.AsyncClient) -> None:
    refused(await send(http, signed(), b"x" * (6 * 1024 * 1024)), 400, "file_too_large")
