"""Load over HTTP as cheap as Python makes it, because it shares the machine with what it measures.

Every connection sends its next request when the last was answered, or at a pace of its own. An answer that was not
expected voids the round.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.harness import RoundVoid

ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    answers: int
    seconds: float
    latencies_ms: Sequence[float]


def get(url: str, path: str, token: str | None = None, **headers: str) -> bytes:
    """A request as bytes."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Accept-Encoding: gzip, deflate"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def post(url: str, path: str, token: str, picture: bytes) -> bytes:
    """A submission as bytes."""
    boundary = "bench"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="style"\r\n\r\nCLASSIC\r\n'.encode(),
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="me.jpg"\r\n'.encode(),
        b"Content-Type: image/jpeg\r\n\r\n" + picture + f"\r\n--{boundary}--\r\n".encode(),
    ]
    body = b"".join(parts)
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        f"Authorization: Bearer {token}",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def closed_loop(
    url: str,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    expected: int = 200,
    every_seconds: float = 0,
) -> Load:
    """`every_seconds`: from a connection's request to its next, each beginning at another moment; 0 for at once.

    Raises RoundVoid for any other answer than the expected status, or none.
    """
    return uvloop.run(_closed_loop(url, requests, connections, seconds, expected, every_seconds))


async def _closed_loop(
    url: str, requests: Sequence[bytes], connections: int, seconds: float, expected: int, every_seconds: float
) -> Load:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    clients = []
    for number in range(connections):
        own = cycle(islice(cycle(requests), number, number + len(requests)))
        _, client = await loop.create_connection(
            lambda own=own: _Connection(own, began + seconds, expected, every_seconds), address.hostname, address.port
        )
        client.ask_in(every_seconds * number / connections)
        clients.append(client)
    try:
        async with asyncio.timeout(seconds + ANSWER_SECONDS):
            await asyncio.gather(*(client.ended for client in clients))
    except TimeoutError as error:
        raise RoundVoid(f"no answer within {ANSWER_SECONDS:g} s") from error
    finally:
        for client in clients:
            client.transport.abort()
    latencies = [latency for client in clients for latency in client.latencies_ms]
    return Load(len(latencies), time.monotonic() - began, latencies)


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], until: float, expected: int, every_seconds: float) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies_ms: list[float] = []
        self._requests = requests
        self._until = until
        self._expected = f"HTTP/1.1 {expected} ".encode()
        self._every_seconds = every_seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def ask_in(self, seconds: float) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._ask)
        else:
            self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        if not head.startswith(self._expected):
            self._end(RoundVoid(f"{head.splitlines()[0].decode()}: {body[:200].decode(errors='replace')}"))
            return
        if len(body) < _content_length(head):
            return
        self.latencies_ms.append(1000 * (time.monotonic() - self._asked_at))
        wait = max(0.0, self._asked_at + self._every_seconds - time.monotonic())
        if time.monotonic() + wait < self._until:
            self.ask_in(wait)
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RoundVoid(f"a connection was lost: {exc}"))

    def _ask(self) -> None:
        self._received = b""
        self._asked_at = time.monotonic()
        self.transport.write(next(self._requests))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error:
                self.ended.set_exception(error)
            else:
                self.ended.set_result(None)


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 : head.find(b"\r", at) if head.find(b"\r", at) > 0 else None]) if at > 0 else 0
