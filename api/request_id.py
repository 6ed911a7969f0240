"""One id per request, in the log's context and in the answer."""

import re
from uuid import uuid4

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As proxies make them: UUIDs with dashes, `Root=1-67891233-abcdef`, ULIDs. Nothing that could forge a log line.
_OF_A_PROXY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=-]{0,127}")


class RequestId:
    """A proxy's own `X-Request-ID` is taken over, so that one search finds a request in all logs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _OF_A_PROXY.fullmatch(given) else uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)
