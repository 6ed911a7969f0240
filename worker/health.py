"""The little HTTP server of a worker: whether it runs, whether it does its work, and what it counts."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import redis

from shared import metrics
from shared.database import database_fault
from shared.queue import PUBLISHER_TIMEOUT_SECONDS
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Page:
    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Page]]  # by path; each is called in a thread of its own


def healthz() -> Page:
    """This process runs."""
    return Page("ok")


def readyz(settings: Settings, consumes: Callable[[], bool]) -> Page:
    """Whether this worker does its work: 200 while all that it needs answers and it consumes, else 503.

    JSON, with true or false for each part. It comes within about three seconds, also when a server hangs.
    """
    parts = {
        "database": asyncio.run(database_fault(settings.database_url)) is None,
        "redis": _redis_answers(settings.redis_url),
        "consuming": consumes(),
    }
    status = HTTPStatus.OK if all(parts.values()) else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(json.dumps(parts), status, "application/json")


def figures() -> Page:
    """For Prometheus: what this worker counts."""
    return Page(metrics.page().decode(), content_type=metrics.CONTENT_TYPE)


def serve_pages(host: str, port: int, pages: Pages) -> None:
    """Answer GET on these paths, in the background, for as long as the process lives. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds a silent client may keep a thread

        def do_GET(self) -> None:
            page = pages.get(urlsplit(self.path).path)
            answer = page() if page else Page("not found", HTTPStatus.NOT_FOUND)
            body = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Asked every few seconds; the answer is no event."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()


def _redis_answers(redis_url: str) -> bool:
    client = redis.Redis.from_url(
        redis_url, socket_timeout=PUBLISHER_TIMEOUT_SECONDS, socket_connect_timeout=PUBLISHER_TIMEOUT_SECONDS
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
