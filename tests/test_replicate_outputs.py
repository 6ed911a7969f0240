"""Reading an output from a server that answers anything at all: the port promises bytes, NotYet or Gone."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from worker.predictor import Gone, NotYet
from worker.replicate_outputs import OutputReader


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    """The address of a server that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": "2"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def read(api_url: str, address: str) -> bytes | NotYet | Gone:
    reader = OutputReader(
        ("replicate.delivery",), api_url, total_seconds=5, limits=httpx.Limits(), tls=ssl.create_default_context()
    )
    return reader.read(address)


def test_what_is_there_is_read() -> None:
    with answering(200) as url:
        assert read(url, f"{url}/a") == b"ok"


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308])
def test_a_redirect_to_nowhere_is_tried_again(status: int) -> None:
    with answering(status) as url:
        assert isinstance(read(url, f"{url}/a"), NotYet)


@pytest.mark.parametrize(
    "location", ["http://[bad", "https://[::1", "https://x:port/", "https://xn--/", "https://a b/", "//", "mailto:a@b"]
)
def test_a_redirect_to_what_is_no_address_ends_the_output(location: str) -> None:
    with answering(302, Location=location) as url:
        assert isinstance(read(url, f"{url}/a"), Gone | NotYet)


@pytest.mark.parametrize(
    "address", ["", "http://[bad", "https://xn--/", "https://replicate.delivery:port/", "/a", "\0"]
)
def test_an_output_that_is_no_address_is_gone(address: str) -> None:
    assert isinstance(read("https://api.replicate.com", address), Gone)
