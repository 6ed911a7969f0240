"""The wire under the Replicate client: bounded in time and size, and never repeating a request by itself.

The client (replicate 1.0.7, read and measured) sleeps up to 50 s over repeated GETs on 429, 503 and 504, obeys a
Retry-After of any length, and drops the headers and most of the body of a refusal. Its retries wrap whatever
transport it is given and look at the status alone, so this transport raises every refusal from below them.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

ANSWER_MAX_BYTES = 64 * 1024 * 1024  # a page of 100 predictions may carry 100 portraits as data: addresses
CONNECT_SECONDS = 2.0
_REDUCED_TO = re.compile(r"reduced to (\d+) requests? per minute with a burst of (\d+)")
_RESETS_IN = re.compile(r"resets in ~?(\d+(?:\.\d+)?)\s*s")
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")


class Refused(Exception):
    """An answer other than 2xx, with all that it said. `body` is empty when it was no JSON object."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.headers = status, headers
        self.body: Mapping[str, Any] = json_object(content) or {}

    @property
    def detail(self) -> str:
        """The vendor's words, or the status where there are none."""
        return quotable(str(self.body.get("detail") or self.body.get("title") or f"HTTP {self.status}"))

    @property
    def retry_after_seconds(self) -> float:
        """When a throttled request may be repeated: the body's own field, the header, the sentence, or a second."""
        spoken = _RESETS_IN.search(str(self.body.get("detail", "")))
        reset = self.headers.get("ratelimit-reset")
        for said in (self.body.get("retry_after"), self.headers.get("retry-after"), spoken and spoken[1], reset):
            try:
                return min(max(float(said or ""), 0.5), 60.0)
            except (TypeError, ValueError):
                continue
        return 1.0

    @property
    def reduced_to(self) -> tuple[float, int] | None:
        """Requests per minute and burst, where the vendor says that it has lowered our limit (its users' reports)."""
        spoken = _REDUCED_TO.search(str(self.body.get("detail", "")))
        return (max(float(spoken[1]), 1.0), max(int(spoken[2]), 1)) if spoken else None


class AnswerTooLarge(httpx.TransportError):
    """The answer went over its size."""


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object in an answer; None for anything else."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def quotable(words: str) -> str:
    """The vendor's words for our records: short, and addresses without their query, which may hold a signature."""
    return _QUERY.sub(r"\1?...", words.strip())[:500]


class TimeLeft(Mapping[str, float]):
    """The timeouts of one exchange as httpcore asks for them, phase by phase: none reaches beyond `until`.

    httpx alone bounds each phase for itself, so that a slow vendor could take the sum of them all.
    """

    def __init__(self, until: float, *, connect_seconds: float) -> None:
        self._until, self._connect_seconds = until, connect_seconds

    def __getitem__(self, phase: str) -> float:
        left = max(self._until - time.monotonic(), 0.001)
        return min(left, self._connect_seconds) if phase in ("connect", "pool") else left

    def __iter__(self) -> Iterator[str]:
        return iter(("pool", "connect", "write", "read"))

    def __len__(self) -> int:
        return 4


def read_bounded(response: httpx.Response, max_bytes: int, until: float) -> bytes:
    """The raw body; httpx bounds each read only, and a server that drips could hold us for hours.

    Raises:
        AnswerTooLarge: it is larger than `max_bytes`.
        httpx.ReadTimeout: `until` (time.monotonic) came first.
    """
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise AnswerTooLarge(f"more than {max_bytes} bytes")
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the answer did not end in time")
    return bytes(content)


class SingleShotTransport(httpx.BaseTransport):
    """Sends a request once and reads its whole answer within the request's `until` extension (time.monotonic).

    Name resolution is the one step that nobody here can bound, and a TLS handshake may add `CONNECT_SECONDS`.

    Raises:
        Refused: any answer other than 2xx, redirects included.
    """

    def __init__(self, wire: httpx.BaseTransport, on_headers: Callable[[httpx.Request, httpx.Headers], None]) -> None:
        self._wire, self._on_headers = wire, on_headers

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until = request.extensions["until"]
        if time.monotonic() >= until:  # this process stood still: what it was about to ask may not be wanted any more
            raise httpx.ConnectTimeout("the time was over before anything was sent")
        request.extensions["timeout"] = TimeLeft(until, connect_seconds=CONNECT_SECONDS)
        answer = self._wire.handle_request(request)
        try:
            self._on_headers(request, answer.headers)
            content = read_bounded(answer, ANSWER_MAX_BYTES, until)
        finally:
            answer.close()
        whole = httpx.Response(answer.status_code, headers=answer.headers, content=content)
        if not whole.is_success:
            raise Refused(whole.status_code, whole.headers, whole.content)
        return whole

    def close(self) -> None:
        self._wire.close()
