"""Server-sent events: one client's answer that lasts, and costs little while nothing happens.

The request's own task hears when the client leaves, and one beside it tells. The other way round, as in Starlette's
StreamingResponse, each ping would resume all the calls that led here: a sixth of what it costs (measured).
"""

import asyncio
import random
from uuid import UUID

from fastapi import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from api.event_view import Event
from api.live_events import Follower, LiveEvents

# When clients of a server that stopped come back; each is told a time of its own, so that they do not come at once.
COME_BACK_MS = (1000, 3000)
_HEADERS = {
    "Cache-Control": "no-cache, no-transform",  # compressing proxies hold events back
    "X-Accel-Buffering": "no",  # nginx: hand on every event at once
}


class EventStream(Response):
    """What happened to a job after one of its events and what happens from now on, until it has ended.

    Form: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    media_type = "text/event-stream"

    def __init__(self, live: LiveEvents, job_id: UUID, after: int, language: str) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, "Content-Language": language})
        self._live = live
        self._job_id = job_id
        self._after = after
        self._language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with self._live.following(self._job_id, self._after, self._language) as follower:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_tell(follower, send))
                await _over(receive)
                follower.leave()


async def _tell(follower: Follower, send: Send) -> None:
    await _send(send, f"retry: {random.randint(*COME_BACK_MS)}\n\n".encode())
    while (events := await follower.next()) is not None:
        await _send(send, b"".join(map(_encoded, events)) if events else b": still here\n\n")
    await _send(send, b"", more=False)


async def _over(receive: Receive) -> None:
    """Return when the client has left or all is said: to ASGI both are a disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, chunk: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})


def _encoded(event: Event) -> bytes:
    return f"id: {event.id}\nevent: {event.name}\ndata: ".encode() + to_json(event.data) + b"\n\n"
