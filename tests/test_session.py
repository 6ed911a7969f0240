"""The page's cookie: who gets one, which are believed, and what another site's page cannot do with it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import jwt
import pytest

from api.auth import DEVELOPMENT_SECRET, development_token
from api.session_cookie import _key
from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, refused, serve

pytestmark = pytest.mark.anyio

NAME = "cuggu_session"
EMAIL = "jiwoo@example.com"
FORM = {"files": {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}, "data": {"style": "CLASSIC"}}


async def signed_in(http: httpx.AsyncClient, email: str = EMAIL) -> httpx.Response:
    """The client's jar has the cookie after it."""
    answer = await http.post("/session", json={"email": email})
    assert answer.status_code == 200
    return answer


def forged(settings: Settings, key: bytes | str | None = None, **claims: object) -> str:
    good = {"sub": str(uuid4()), "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode({**good, **claims}, _key(settings) if key is None else key, "HS256")  # type: ignore[arg-type]


async def test_an_address_becomes_a_cookie_and_the_cookie_a_user(http: httpx.AsyncClient) -> None:
    answer = await signed_in(http)
    assert (answer.json()["email"], answer.json()["credits"]) == (EMAIL, 2)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{NAME}=")
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=86400"):
        assert part in cookie
    assert "Secure" not in cookie
    assert "Domain" not in cookie
    assert (await http.get("/me")).json()["email"] == EMAIL
    out = await http.delete("/session")
    assert (out.status_code, out.content) == (204, b"")
    assert http.cookies.get(NAME) is None
    refused(await http.get("/me"), 401, "unauthorized")


async def test_a_token_becomes_a_cookie(http: httpx.AsyncClient, settings: Settings) -> None:
    bearer = {"Authorization": f"Bearer {development_token(settings, EMAIL)}"}
    assert (await http.post("/session", headers=bearer)).status_code == 200
    assert (await http.get("/me")).json()["email"] == EMAIL
    refused(await http.post("/session", headers={"Authorization": "Bearer nonsense"}), 401, "unauthorized")
    http.cookies.clear()
    refused(await http.post("/session"), 401, "unauthorized")
    refused(await http.post("/session", json={"email": "no address"}), 400, "invalid_request")


@pytest.fixture
async def production(settings: Settings) -> AsyncIterator[Client]:
    """Signed in by the host site's tokens, behind TLS."""
    real = settings.model_copy(
        update={
            "auth_mode": "jwt",
            "jwt_secret": type(settings).model_validate({**settings.model_dump(), "jwt_secret": "s" * 32}).jwt_secret,
            "public_url": "https://photos.example",
        }
    )
    async with AsyncExitStack() as stack:
        yield Client(await serve(stack, real), real)


async def test_in_production_only_a_token_gives_a_cookie_and_it_needs_tls(production: Client) -> None:
    refused(await production.http.post("/session", json={"email": EMAIL}), 401, "unauthorized")
    refused(await production.http.post("/session", headers=production.headers), 401, "unauthorized")
    claims = {
        "email": EMAIL,
        "iss": production.settings.jwt_issuer,
        "aud": production.settings.jwt_audience,
        "exp": datetime.now(UTC) + timedelta(minutes=5),
    }
    bearer = {"Authorization": f"Bearer {jwt.encode(claims, 's' * 32, 'HS256')}"}
    cookie = (await production.http.post("/session", headers=bearer)).headers["set-cookie"]
    assert cookie.startswith(f"__Host-{NAME}=")
    assert "Secure" in cookie
    assert "HttpOnly" in cookie
    value = cookie.partition("=")[2].partition(";")[0]
    by_cookie = {"Cookie": f"__Host-{NAME}={value}"}
    assert (await production.http.get("/me", headers=by_cookie)).json()["email"] == EMAIL
    # Neither passes for the other.
    refused(await production.http.get("/me", headers={"Authorization": f"Bearer {value}"}), 401, "unauthorized")
    token = {"Cookie": f"__Host-{NAME}={bearer['Authorization'].removeprefix('Bearer ')}"}
    refused(await production.http.get("/me", headers=token), 401, "unauthorized")


async def test_without_a_secret_there_are_no_cookies(settings: Settings) -> None:
    published = settings.model_copy(update={"auth_mode": "jwt", "jwt_algorithm": "ES256", "jwt_jwks_url": "x"})
    assert _key(published) is None
    assert _key(settings) != DEVELOPMENT_SECRET.encode()


async def test_forged_and_outdated_cookies_are_refused(http: httpx.AsyncClient, settings: Settings) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    mine = (await signed_in(http)).json()["id"]
    http.cookies.clear()
    good = forged(settings, sub=mine)
    bad = [
        forged(settings),  # of nobody
        forged(settings, sub="nobody"),
        jwt.encode({"email": EMAIL, "exp": datetime.now(UTC) + timedelta(hours=1)}, _key(settings) or b"", "HS256"),
        "nonsense",
        forged(settings, sub=mine, key="another-secret-of-thirty-two-bytes-or-more"),
        forged(settings, sub=mine, key=DEVELOPMENT_SECRET),
        forged(settings, sub=mine, exp=past),
        jwt.encode({"sub": mine}, _key(settings) or b"", "HS256"),
        jwt.encode({"sub": mine, "exp": datetime.now(UTC) + timedelta(hours=1)}, "", "none"),
        good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
    ]
    for value in bad:
        refused(await http.get("/me", headers={"Cookie": f"{NAME}={value}"}), 401, "unauthorized")
    assert (await http.get("/me", headers={"Cookie": f"{NAME}={good}"})).json()["email"] == EMAIL


@pytest.mark.parametrize(
    "sent",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
    ],
)
async def test_another_sites_page_cannot_change_anything_with_our_cookie(
    http: httpx.AsyncClient, client: Client, sent: dict[str, str]
) -> None:
    await signed_in(http)
    for call in (
        http.post("/jobs", headers=sent, **FORM),
        http.post("/session", json={"email": "evil@example.com"}, headers=sent),
        http.delete("/session", headers=sent),
        http.post("/api/ai/select", json={}, headers=sent),
    ):
        assert (await call).status_code == 403
    assert (await http.get("/me", headers=sent)).json()["email"] == EMAIL, "it is still signed in, as itself"
    assert (await http.get("/jobs", headers=sent)).json()["jobs"] == []
    # A token is proof enough, wherever the call comes from.
    assert (await client.submit(**sent)).status_code == 202


@pytest.mark.parametrize(
    "sent",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"},
        {},
    ],
)
async def test_our_own_page_can(http: httpx.AsyncClient, sent: dict[str, str]) -> None:
    await signed_in(http)
    assert (await http.post("/jobs", headers=sent, **FORM)).status_code == 202


async def test_two_users_with_cookies_see_their_own(http: httpx.AsyncClient) -> None:
    await signed_in(http)
    job = (await http.post("/jobs", **FORM)).json()
    mine = http.cookies.get(NAME)
    http.cookies.clear()
    await signed_in(http, "minsu@example.com")
    refused(await http.get(f"/jobs/{job['id']}"), 404, "not_found")
    refused(await http.get(f"/jobs/{job['id']}/events"), 404, "not_found")
    refused(await http.post(f"/jobs/{job['id']}/cancel"), 404, "not_found")
    assert (await http.get("/jobs")).json()["jobs"] == []
    # A browser follows its job by the cookie alone: an EventSource can send no header.
    http.cookies.clear()
    by_cookie = {"Cookie": f"{NAME}={mine}"}
    assert (await http.post(f"/jobs/{job['id']}/cancel", headers=by_cookie)).status_code == 200
    assert "event: job.canceled" in (await http.get(f"/jobs/{job['id']}/events", headers=by_cookie)).text
