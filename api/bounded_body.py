"""Read a request's body in a bounded way, whatever its headers promise."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from shared.errors import FileTooLarge

# A refused upload is read on for this much and thrown away, so that a client that only listens after sending
# hears the answer instead of a broken connection.
DRAIN_BYTES = 20 * 1024 * 1024
# What a request may weigh that is read as JSON: ours have some hundred bytes.
JSON_MAX_BYTES = 64 * 1024


class BoundedRoute(APIRoute):
    """For routers whose routes take JSON: FastAPI reads all of it, before it asks who sends it.

    A larger body is answered with `invalid_request`. Routes that read their body themselves are left alone.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def bounded(request: Request) -> Response:
            receive = bounded_receive(request, JSON_MAX_BYTES, JSON_MAX_BYTES)
            return await handle(Request(request.scope, receive))

        return bounded


async def bounded_body(request: Request, limit_bytes: int) -> bytes:
    """The raw body. Raises FileTooLarge."""
    return await Request(request.scope, bounded_receive(request, limit_bytes, limit_bytes)).body()


def bounded_receive(request: Request, limit_bytes: int, told_bytes: int) -> Receive:
    """The request's `receive`, raising FileTooLarge (which names `told_bytes`) once more than the limit came."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            while message.get("more_body") and received < limit_bytes + DRAIN_BYTES:
                message = await request.receive()
                received += len(message.get("body", b""))
            raise FileTooLarge(max_bytes=told_bytes)
        return message

    return receive
