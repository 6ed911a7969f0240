"""The least that can stand in for API and worker, for tests of the supervision alone: quick to start, real to ask."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from celery import Celery

COMMANDS = {
    "api": ("python", "-m", "tests.small_stack"),
    "worker": ("python", "-m", "tests.small_stack", "worker"),
    "beat": ("sleep", "600"),
    "flower": ("celery", "-A", "tests.small_stack:app", "flower"),
}  # fmt: skip

app = Celery("small", broker=os.environ.get("REDIS_URL"), set_as_current=False)  # for Flower


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        print("asked for", self.path, file=sys.stderr, flush=True)


if __name__ == "__main__":
    part = "WORKER_HEALTH" if "worker" in sys.argv[-1] else "API"
    ThreadingHTTPServer((os.environ[f"{part}_HOST"], int(os.environ[f"{part}_PORT"])), _Ready).serve_forever()
