"""Headers over a real connection: what any client sends is taken, more is not kept."""

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.bounded_head import BoundedHead

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=BoundedHead, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as client:
        yield client


def test_requests_with_ordinary_headers_and_large_bodies_are_taken(address: tuple[str, int]) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + bytes(0x4000) + b"\r\n0\r\n\r\n"
    whole = b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    with connected(address) as client:
        for rest in (whole, b"Cookie: " + b"c" * 30_000 + b"\r\n" + chunked, whole, b"Content-Length: 0\r\n\r\n"):
            client.sendall(HEAD + rest)
            assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_too_many_headers_are_refused(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.sendall(HEAD + b"X: 1234567890\r\n" * 7000 + b"\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "beginning",
    [HEAD + b"X: ", b"GET /", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "],
    ids=["header", "address", "trailer"],
)
def test_what_does_not_end_is_not_kept(address: tuple[str, int], beginning: bytes) -> None:
    tracemalloc.start()
    with connected(address) as client, pytest.raises(OSError):  # noqa: PT011 - reset, or a broken pipe
        send_on(client, beginning)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


def send_on(client: socket.socket, beginning: bytes) -> None:
    """50 MB, unless the server hangs up."""
    client.sendall(beginning)
    for _ in range(500):
        client.sendall(b"a" * 100_000)
