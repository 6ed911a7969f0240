"""What holds for the whole HTTP side: its documents, its health, its errors."""

import asyncio
import logging
import re
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI, Request

from api.bounded_body import JSON_MAX_BYTES
from api.errors import preferred_language
from shared.settings import Settings
from tests.api_client import Client, application, events, hanging_server, leaving, refused, serve

pytestmark = pytest.mark.anyio


async def test_the_catalogue_and_the_docs_are_there(client: Client) -> None:
    styles = (await client.http.get("/styles")).json()
    assert [style["key"] for style in styles] == ["CLASSIC", "MODERN", "VINTAGE", "ROMANTIC", "CINEMATIC"]
    assert all(style["label_ko"] and style["label_en"] for style in styles)
    contract = (await client.http.get("/openapi.json")).json()
    form = contract["paths"]["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["style"]["enum"] == [style["key"] for style in styles]
    assert form["role"]["enum"] == ["GROOM", "BRIDE"]
    assert (await client.http.get("/healthz")).text == "ok"
    assert (await client.http.get("/readyz")).json() == {"database": True, "redis": True}


async def test_what_the_framework_refuses_is_refused_in_our_form(client: Client) -> None:
    refused(await client.http.get("/nowhere"), 404, "not_found")
    answer = await client.http.delete("/styles")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    answer = await client.http.delete("/api/ai/generations")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json() == {"error": "This address takes other methods"}


async def test_no_route_reads_more_json_than_any_request_has(http: httpx.AsyncClient) -> None:
    """Whoever sends it: who that is is asked after the body has been read."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(200):
            taken += JSON_MAX_BYTES
            yield b" " * JSON_MAX_BYTES

    paths = (await http.get("/openapi.json")).json()["paths"]
    takers = [
        (method, path)
        for path, calls in paths.items()
        for method, call in calls.items()
        if "application/json" in call.get("requestBody", {}).get("content", {})
    ]
    assert ("put", "/jobs/{job_id}/selection") in takers
    tracemalloc.start()
    for method, path in takers:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        address = re.sub(r"{\w+}", str(uuid4()), path)
        answer = await http.request(method, address, content=endless(), headers={"Content-Type": "application/json"})
        _, most = tracemalloc.get_traced_memory()
        assert answer.status_code == 400, (method, path)
        assert most - before < 20 * JSON_MAX_BYTES, (method, path)
    tracemalloc.stop()
    assert taken == len(takers) * 200 * JSON_MAX_BYTES, "a client that only listens after sending hears the answer"


@pytest.fixture
def broken(http: httpx.AsyncClient) -> FastAPI:
    """The application with an address that fails."""
    app = application(http)

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError

    return app


async def test_a_crash_is_answered_and_logged_under_one_id(
    http: httpx.AsyncClient, broken: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/crash", headers={"X-Request-ID": "made-by-a-proxy"})
    refused(answer, 500, "internal")
    assert answer.headers["x-request-id"] == "made-by-a-proxy"
    told = [(entry["event"], entry["request_id"]) for entry in events(caplog)]
    assert told == [("request.crashed", "made-by-a-proxy")]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2f1c1a0e-6f0b-4b8e-9a51-0d6f3a1b2c3d", True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("abc123", True),
        ("a b", False),
        ("x" * 129, False),
        ("", False),
        ('"}{"', False),
    ],
)
async def test_a_proxys_request_id_is_taken_over(http: httpx.AsyncClient, given: str, kept: bool) -> None:
    answer = await http.get("/healthz", headers={"X-Request-ID": given})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/jobs", "/api/ai/generate", "/webhooks/replicate?photo=00000000-0000-0000-0000-000000000000"]
)
async def test_a_client_that_leaves_while_it_sends_is_no_crash(
    client: Client, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    headers = {**client.headers, "Content-Type": "multipart/form-data; boundary=x"}
    request = client.http.build_request("POST", path, content=b"--x\r\nContent-Disp", headers=headers)
    left = asyncio.Event()
    left.set()
    await leaving(client.http, request, left, whole=False)
    assert [(entry["event"], entry["level"]) for entry in events(caplog)] == [("client.left", "info")]


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("", "ko"),
        ("en", "en"),
        ("en; q=0.5, ko; q=0.9", "ko"),
        ("en;q=0.5,ko;q=0.9", "ko"),
        ("ko ; q=0.3 , en-US ; q=0.4", "en"),
        ("EN-gb;Q=1", "en"),
        ("fr, en;q=0.1", "en"),
        ("en;q=0", "ko"),
        ("en;q=many, ko;q=0.1", "ko"),
        ("english", "ko"),
        ("en;level=1;q=0.2, ko;q=0.1", "en"),
    ],
)
def test_the_language_is_the_one_asked_for_most(asked: str, language: str) -> None:
    request = Request({"type": "http", "headers": [(b"accept-language", asked.encode())]})
    assert preferred_language(request) == language


PASSWORD = "Zq7unspeakableZq7"


@pytest.fixture
async def away(settings: Settings) -> AsyncIterator[Client]:
    """A user of an application whose database does not listen."""
    alone = settings.model_copy(update={"database_url": f"postgresql://cuggu:{PASSWORD}@127.0.0.1:1/cuggu"})
    async with AsyncExitStack() as stack:
        yield Client(await serve(stack, alone), alone)


async def test_without_a_database_one_is_asked_to_come_back(away: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for answer in (await away.get("/me"), await away.submit(), await away.get("/api/ai/generations")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        refused(await away.get("/jobs"), 503, "unavailable")
        assert (await away.http.get("/readyz")).status_code == 503
    assert "database.unreachable" in caplog.text
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text
    assert away.email not in caplog.text


async def test_a_database_that_hangs_does_not_hang_what_is_said_of_it(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(hanging_server())
        hung = settings.model_copy(update={"database_url": f"postgresql://cuggu:{PASSWORD}@{address}/cuggu"})
        http = await serve(stack, hung)
        began = time.monotonic()
        answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
        assert time.monotonic() - began < 4
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json() == {"database": False, "redis": True}


async def test_a_pool_with_nothing_to_lend_is_no_crash(client: Client) -> None:
    await client.get("/me")
    pool = application(client.http).state.parts.sessions.kw["bind"].pool
    pool._timeout = 0.01
    async with AsyncExitStack() as stack:
        for _ in range(20):
            session = await stack.enter_async_context(application(client.http).state.parts.sessions())
            await session.connection()
        answer = await client.get("/me")
    refused(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await client.get("/me")).status_code == 200
