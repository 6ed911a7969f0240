"""Server-sent events as a browser reads them, from the application itself or over a connection."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.api_client import Client, application


@dataclass(frozen=True)
class Event:
    id: int
    name: str
    data: dict[str, Any]


def parse(block: str) -> Event | None:
    """None for a comment, and for a block of settings."""
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    return Event(int(fields["id"]), fields["event"], json.loads(fields["data"])) if "data" in fields else None


class Stream:
    """One client's stream; `blocks` are all that came, comments included. Set `over` to leave it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.blocks: list[str] = []
        self.ended = False
        self.over = asyncio.Event()
        self._text = ""
        self._came = asyncio.Condition()

    @property
    def events(self) -> list[Event]:
        return [event for event in map(parse, self.blocks) if event is not None]

    async def until(self, count: int, seconds: float = 20) -> list[Event]:
        """The events when there are this many, or it has ended. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._came:
            await self._came.wait_for(lambda: self.ended or len(self.events) >= count)
        return self.events

    async def to_the_end(self, seconds: float = 20) -> list[Event]:
        async with asyncio.timeout(seconds), self._came:
            await self._came.wait_for(lambda: self.ended)
        return self.events

    async def send(self, message: MutableMapping[str, Any]) -> None:
        async with self._came:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                *blocks, self._text = (self._text + message.get("body", b"").decode()).split("\n\n")
                self.blocks += blocks
                self.ended = not message.get("more_body", False)
                if self.ended:
                    self.over.set()
            self._came.notify_all()

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI has one word for both: the client has left, or the answer is whole."""
        await self.over.wait()
        return {"type": "http.disconnect"}


@asynccontextmanager
async def following(client: Client, path: str, **headers: str) -> AsyncIterator[Stream]:
    """A client that follows a job; it leaves at the end of the block, and the application has let it go after it."""
    request = client.http.build_request("GET", path, headers={**client.headers, **headers})
    scope = {
        "type": "http",
        "method": "GET",
        "path": request.url.path,
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": ("127.0.0.1", 8000),
    }
    stream = Stream()
    serving = asyncio.create_task(application(client.http)(scope, stream.receive, stream.send))
    try:
        yield stream
    finally:
        stream.over.set()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
