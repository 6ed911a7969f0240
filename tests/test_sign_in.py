"""Who is it: which tokens are believed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from api.auth import DEVELOPMENT_SECRET
from shared.settings import Settings
from tests.api_client import refused, serve

pytestmark = pytest.mark.anyio


def token(settings: Settings, *, key: str = DEVELOPMENT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    good = {
        "email": "someone@example.com",
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + timedelta(hours=1),
    }
    return jwt.encode({name: value for name, value in {**good, **claims}.items() if value is not None}, key, algorithm)


async def test_only_valid_tokens_are_believed(http: httpx.AsyncClient, settings: Settings) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    bad = [
        None,
        "",
        "Basic eDp5",
        "Bearer",
        "Bearer nonsense",
        *(
            f"Bearer {wrong}"
            for wrong in (
                token(settings, key="another-secret-of-thirty-two-bytes-or-more"),
                token(settings, key="", algorithm="none"),
                token(settings, algorithm="HS512"),
                token(settings, iss="somebody-else"),
                token(settings, aud="somewhere-else"),
                token(settings, exp=past),
                token(settings, exp=None),
                token(settings, email=None),
                token(settings, email="no address"),
            )
        ),
    ]
    for value in bad:
        answer = await http.get("/me", headers={} if value is None else {"Authorization": value})
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    good = await http.get("/me", headers={"Authorization": f"Bearer {token(settings, email='Some.One@Example.com')}"})
    assert good.json()["email"] == "some.one@example.com"


async def test_development_tokens_are_worth_nothing_in_production(settings: Settings) -> None:
    production = Settings(
        _env_file=None,
        **{
            **settings.model_dump(),
            "auth_mode": "jwt",
            "jwt_secret": "a-production-secret-of-thirty-two-bytes",
        },
    )
    async with AsyncExitStack() as stack:
        http = await serve(stack, production)
        refused(await http.get("/me", headers={"Authorization": f"Bearer {token(settings)}"}), 401, "unauthorized")
        good = token(settings, key="a-production-secret-of-thirty-two-bytes")
        assert (await http.get("/me", headers={"Authorization": f"Bearer {good}"})).status_code == 200


async def test_the_form_is_not_read_before_it_is_known_who_sends_it(http: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("somebody read the body")
        yield b""

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(await http.post("/jobs", content=body(), headers=headers), 401, "unauthorized")
