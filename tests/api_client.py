"""The real application over a test's own PostgreSQL and Redis, and a user of it; no worker runs."""

import asyncio
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.auth import development_token
from api.main import create_app
from shared import leases, photos
from shared.attempts import AttemptEnd
from shared.disk_storage import DiskStorage
from shared.photos import StoredFile
from shared.settings import Settings
from shared.states import AttemptOutcome, PhotoStatus
from tests import photos as pictures


@dataclass
class Client:
    """One user of one application."""

    http: httpx.AsyncClient
    settings: Settings
    email: str = field(default_factory=lambda: f"{uuid4().hex}@example.com")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {development_token(self.settings, self.email)}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={**self.headers, **headers})

    async def submit(
        self, image: bytes | None = None, style: str | None = "CLASSIC", role: str | None = None, **headers: str
    ) -> httpx.Response:
        files = {"image": ("me.jpg", pictures.one_face() if image is None else image, "image/jpeg")}
        data = {name: value for name, value in {"style": style, "role": role}.items() if value is not None}
        return await self.http.post("/jobs", files=files, data=data, headers={**self.headers, **headers})

    async def balance(self) -> int:
        return int((await self.get("/me")).json()["credits"])


async def serve(stack: AsyncExitStack, settings: Settings) -> httpx.AsyncClient:
    app = create_app(settings)
    await stack.enter_async_context(app.router.lifespan_context(app))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000"))


def application(http: httpx.AsyncClient) -> FastAPI:
    """The application behind a client that `serve` made."""
    transport = http._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, FastAPI)
    return transport.app


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What our own code has logged since the test began."""
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]


@contextmanager
def hanging_server() -> Iterator[str]:
    """The address of a server that lets everybody connect and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def leaving(http: httpx.AsyncClient, request: httpx.Request, left: asyncio.Event, *, whole: bool = True) -> None:
    """Send a request, or its beginning, as a client that closes the connection when `left` is set.

    Returns when the application has ended.
    """
    messages = [{"type": "http.request", "body": await request.aread(), "more_body": not whole}]

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_message: MutableMapping[str, Any]) -> None: ...

    scope = {
        "type": "http",
        "method": request.method,
        "path": request.url.path,
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": ("127.0.0.1", 8000),
    }
    await application(http)(scope, receive, send)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"], body["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    return body


def finish(engine: Engine, settings: Settings, job: dict[str, Any], stored: int = 4) -> None:
    """What workers would do: store the first photos, give up the rest."""
    storage = DiskStorage(settings.data_dir / "objects")
    for photo in job["photos"]:
        with Session(engine) as session, session.begin():
            claim = leases.claim(session, photo["id"], PhotoStatus.PENDING, 60)
            assert claim is not None
            attempt = photos.open_attempt(session, claim, "preview", "preview")
            if photo["slot"] < stored:
                key = photos.photo_key(claim, attempt)
                storage.put(key, pictures.one_face(), "image/jpeg")
                file = StoredFile(key, 512, 512, 1000, "0" * 64)
                photos.store(session, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), file)
            else:
                photos.give_up(session, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, "moderated"))
