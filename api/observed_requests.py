"""What is written down of every request: one id for it in the log and in the answer, a count, and a span."""

import random
import re
import time
from functools import cache

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.metrics import HTTP_REQUESTS, HTTP_SECONDS
from shared.tracing import span

# As proxies make them: UUIDs with dashes, `Root=1-67891233-abcdef`, ULIDs. Nothing that could forge a log line.
_OF_A_PROXY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=-]{0,127}")
# Asked every few seconds by machines: no trace of them would be looked at.
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
NO_ROUTE = "(none)"  # whatever scanners ask for stands under one label


class ObservedRequests:
    """Around everything. A proxy's own `X-Request-ID` is taken over, so that one search finds a request in all logs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _OF_A_PROXY.fullmatch(given) else random.randbytes(16).hex()
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                _count(scope, method, message["status"], began)
                if spanned is not None:
                    spanned.update_name(f"{method} {_route(scope)}")
                    spanned.set_attribute("http.route", _route(scope))
                    spanned.set_attribute("http.response.status_code", message["status"])
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if scope["path"] in _UNTRACED:
                spanned = None
                await self._app(scope, receive, send_with_id)
                return
            parent = headers.get(b"traceparent", b"").decode("latin-1") or None
            with span(
                method, "server", parent=parent, http__request__method=method, cuggu__request_id=request_id
            ) as spanned:
                await self._app(scope, receive, send_with_id)


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return NO_ROUTE if route is None else str(route.path)


def _count(scope: Scope, method: str, status: int, began: float) -> None:
    requests, seconds = _counters(_route(scope), method, status // 100)
    requests.inc()
    if b"wait=" not in scope["query_string"]:
        seconds.observe(time.perf_counter() - began)


@cache  # of as many as there are routes, methods and hundreds
def _counters(route: str, method: str, hundreds: int) -> tuple[Counter, Histogram]:
    return HTTP_REQUESTS.labels(route, method, f"{hundreds}xx"), HTTP_SECONDS.labels(route, method)
