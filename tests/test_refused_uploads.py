"""Uploads that are refused before they are read, over a real connection: what still comes is no new request."""

import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from api.auth import development_token
from shared.settings import Settings
from tests.stack import RunningStack

BOUNDARY = "a-boundary-of-the-tests"
PIECE = 256 * 1024


def upload(size_bytes: int) -> bytes:
    """A form whose picture looks like requests, should anybody take its bytes for some."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="me.jpg"\r\n\r\n'.encode()
    picture = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * (size_bytes // 36)
    return head + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def header(method: str, path: str, length: int = 0, **more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """One answer with a Content-Length: its status and its body."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65_536) or pytest.fail("the connection was closed")
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65_536) or pytest.fail("the connection was closed")
    assert len(body) == length, "more came than one answer"
    return int(head.split()[1]), body


@pytest.fixture
def stack(running_stack: Callable[..., RunningStack]) -> RunningStack:
    return running_stack(processes=("api",))


def connect(stack: RunningStack) -> socket.socket:
    address = urlsplit(stack.api_url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.mark.parametrize(
    ("who", "size_bytes", "code"),
    [("nobody", 6_000_000, "unauthorized"), ("somebody", 12_000_000, "file_too_large"), ("somebody", 40_000_000, "")],
    ids=["before it is read", "while it is read", "and it goes on"],
)
def test_the_connection_goes_on_after_a_refused_upload(
    stack: RunningStack, settings: Settings, who: str, size_bytes: int, code: str
) -> None:
    more = {"Content_Type": FORM}
    if who == "somebody":
        more["Authorization"] = f"Bearer {development_token(settings, 'couple@example.com')}"
    body = upload(size_bytes)
    with connect(stack) as connection:
        connection.sendall(header("POST", "/jobs", len(body), **more))
        for start in range(0, len(body), PIECE):
            connection.sendall(body[start : start + PIECE])
        status, told = read_answer(connection)
        assert status == (401 if who == "nobody" else 400)
        assert json.loads(told)["code"] == (code or "file_too_large")
        connection.sendall(header("GET", "/healthz"))
        assert read_answer(connection)[0] == 200
    assert "Invalid HTTP request" not in stack.logs("api")


def test_an_upload_that_breaks_off_is_no_request(stack: RunningStack, settings: Settings) -> None:
    token = development_token(settings, "couple@example.com")
    body = upload(4_000_000)
    for more in ({}, {"Authorization": f"Bearer {token}"}):
        with connect(stack) as connection:
            connection.sendall(header("POST", "/jobs", len(body), Content_Type=FORM, **more) + body[:1_000_000])
    with connect(stack) as connection:
        connection.sendall(header("GET", "/healthz"))
        assert read_answer(connection)[0] == 200
    assert "Invalid HTTP request" not in stack.logs("api")


def test_what_is_no_http_at_all_is_what_the_server_warns_of(stack: RunningStack) -> None:
    """As when a client of another server comes to a port that was that one's before."""
    with connect(stack) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert read_answer(connection)[0] == 400
    assert "Invalid HTTP request" in stack.logs("api")
