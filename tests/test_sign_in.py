"""Who is it: which tokens are believed."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt.algorithms import ECAlgorithm

from api.auth import DEVELOPMENT_SECRET, Authenticator, development_token
from api.signing_keys import SigningKeys
from shared.errors import Unauthorized
from shared.settings import Settings
from tests.api_client import application, hanging_server, refused, serve
from tests.waiting import until

pytestmark = pytest.mark.anyio


def token(
    settings: Settings,
    *,
    key: Any = DEVELOPMENT_SECRET,
    algorithm: str = "HS256",
    kid: str | None = None,
    **claims: Any,
) -> str:
    good = {
        "email": "someone@example.com",
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + timedelta(hours=1),
    }
    return jwt.encode(
        {name: value for name, value in {**good, **claims}.items() if value is not None},
        key,
        algorithm,
        {"kid": kid} if kid else None,
    )


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
    for issued_at in (1_700_000_000, 1_700_000_000.5, "1700000000"):  # all of which PyJWT takes for a time
        taken = await http.get("/me", headers={"Authorization": f"Bearer {token(settings, iat=issued_at)}"})
        assert taken.status_code == 200


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


# --- Keys that the issuer publishes


class Issuer:
    """Publishes its keys over HTTP, or whatever it is told to."""

    def __init__(self) -> None:
        self.keys: dict[str, EllipticCurvePrivateKey] = {}
        self.body: bytes | None = None  # instead of the keys
        self.fetched = 0
        self.url = ""

    def add(self, kid: str) -> None:
        self.keys[kid] = generate_private_key(SECP256R1())

    def token(self, settings: Settings, kid: str) -> str:
        return token(settings, key=self.keys[kid], algorithm="ES256", kid=kid)

    def answer(self) -> bytes:
        self.fetched += 1
        public = [{**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in self.keys.items()]
        return json.dumps({"keys": public}).encode() if self.body is None else self.body


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.add("first")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = issuer.answer()
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        issuer.url = f"http://127.0.0.1:{server.server_port}/keys"
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()


def published(settings: Settings, url: str, **changes: Any) -> Settings:
    given = {"auth_mode": "jwt", "jwt_algorithm": "ES256", "jwt_jwks_url": url}
    return Settings(_env_file=None, **{**settings.model_dump(), **given, **changes})


async def me(http: httpx.AsyncClient, token: str) -> httpx.Response:
    return await http.get("/me", headers={"Authorization": f"Bearer {token}"})


async def test_the_issuers_keys_are_believed_and_no_others(settings: Settings, issuer: Issuer) -> None:
    stranger = Issuer()
    stranger.add("first")
    stranger.add("unknown")
    async with AsyncExitStack() as stack:
        http = await serve(stack, published(settings, issuer.url))
        for _ in range(3):
            assert (await me(http, issuer.token(settings, "first"))).status_code == 200
        assert issuer.fetched == 1
        for forged in (
            stranger.token(settings, "first"),
            stranger.token(settings, "unknown"),
            token(settings),
            token(settings, key=stranger.keys["first"], algorithm="ES256"),
        ):
            refused(await me(http, forged), 401, "unauthorized")


@pytest.mark.parametrize(("seconds", "kept"), [(0, 1), (3600, 4)])
async def test_a_token_is_kept_for_as_long_as_it_is_believed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float, kept: int
) -> None:
    monkeypatch.setattr("api.auth.BELIEVED_SECONDS", seconds)
    monkeypatch.setattr("api.auth.BELIEVED_TOKENS", 4)
    authenticator = Authenticator(settings, None)  # type: ignore[arg-type] - a proof needs no database
    for number in range(6):
        await authenticator.proof(f"Bearer {development_token(settings, f'user{number}@example.com')}")
    assert len(authenticator._believed) == kept


async def test_a_withdrawn_key_is_not_believed_for_ever(issuer: Issuer, settings: Settings) -> None:
    keys = SigningKeys(issuer.url, believed_seconds=0.2)
    old = issuer.token(settings, "first")
    assert await keys.key_of(old)
    issuer.add("second")
    del issuer.keys["first"]

    async def is_forgotten() -> bool:
        try:
            return not await keys.key_of(old)
        except Unauthorized:
            return True

    await until(is_forgotten)
    assert await keys.key_of(issuer.token(settings, "second"))


@pytest.mark.parametrize(
    "body", [b"<html>", b"\xff", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "odd"}]}', b""]
)
async def test_an_issuer_without_keys_signs_nobody_out(settings: Settings, issuer: Issuer, body: bytes) -> None:
    issuer.body = body
    async with AsyncExitStack() as stack:
        http = await serve(stack, published(settings, issuer.url))
        answer = await me(http, issuer.token(settings, "first"))
    refused(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_issuer_that_is_away_signs_nobody_out(settings: Settings, issuer: Issuer) -> None:
    async with AsyncExitStack() as stack:
        http = await serve(stack, published(settings, "http://127.0.0.1:1/keys"))
        answer = await me(http, issuer.token(settings, "first"))
    refused(answer, 503, "unavailable")


async def test_an_issuer_that_hangs_holds_nobody_but_those_who_sign_in(
    settings: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.signing_keys.FETCH_TIMEOUT_SECONDS", 1)
    async with AsyncExitStack() as stack:
        url = f"http://{stack.enter_context(hanging_server())}/keys"
        http = await serve(stack, published(settings, url))
        began = time.monotonic()
        signing_in = [asyncio.create_task(me(http, issuer.token(settings, "first"))) for _ in range(60)]
        fetching = application(http).state.parts.authenticator._signing_keys._thread
        await until(lambda: fetching.statistics().tasks_waiting == len(signing_in) - 1)
        await to_thread.run_sync(int)
        assert not any(task.done() for task in signing_in), "there is a thread for others meanwhile"
        for answer in await asyncio.gather(*signing_in):
            refused(answer, 503, "unavailable")
        assert time.monotonic() - began < 5, "all of them wait for one time-out"


async def test_with_a_shared_secret_nobody_asks_for_published_keys(settings: Settings, issuer: Issuer) -> None:
    secret = "a-production-secret-of-thirty-two-bytes"
    both = published(settings, issuer.url, jwt_algorithm="HS256", jwt_secret=secret)
    async with AsyncExitStack() as stack:
        http = await serve(stack, both)
        assert (await me(http, token(settings, key=secret))).status_code == 200
        refused(await me(http, issuer.token(settings, "first")), 401, "unauthorized")
    assert issuer.fetched == 0


async def test_a_key_of_another_kind_than_the_algorithm_proves_nothing(settings: Settings, issuer: Issuer) -> None:
    async with AsyncExitStack() as stack:
        http = await serve(stack, published(settings, issuer.url, jwt_algorithm="RS256"))
        refused(await me(http, issuer.token(settings, "first")), 401, "unauthorized")
        with_its_kid = token(settings, key=generate_rsa_key(65537, 2048), algorithm="RS256", kid="first")
        refused(await me(http, with_its_kid), 401, "unauthorized")
