"""Downloading what Replicate made: from the allowed hosts only, without our token, bounded in size and time."""

import base64
import binascii
import ssl
import time
from urllib.parse import unquote_to_bytes, urljoin

import httpx
import structlog

from worker.predictor import Gone, NotYet
from worker.replicate_http import CONNECT_SECONDS, AnswerTooLarge, TimeLeft, read_bounded

OUTPUT_MAX_BYTES = 30 * 1024 * 1024
_REDIRECTS_MAX = 3
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

log = structlog.get_logger()


class OutputReader:
    """Reads outputs from `hosts` and their subdomains over https.

    Plain http is read only from the API's own origin, and only while that is itself a loopback http address.
    """

    def __init__(
        self, hosts: tuple[str, ...], api_url: str, *, total_seconds: float, limits: httpx.Limits, tls: ssl.SSLContext
    ) -> None:
        api = httpx.URL(api_url)
        loopback = api.scheme == "http" and api.host in _LOOPBACK
        self._hosts, self._total_seconds = tuple(host.lower() for host in hosts), total_seconds
        self._loopback_origin = (api.host, api.port) if loopback else None
        self._web = httpx.Client(
            trust_env=False,  # no proxy from the environment: the API's client takes none either
            follow_redirects=False,
            limits=limits,
            verify=tls,
            headers={"user-agent": "cuggu-photos"},
        )

    def read(self, address: str) -> bytes | NotYet | Gone:
        """One output. Gone: it is there no more, too large, or at an address that we do not read from."""
        if address.startswith("data:"):
            return _inline(address)
        until = time.monotonic() + self._total_seconds
        headers = {"accept-encoding": "identity"}  # the bytes are kept as they come
        bound = {"timeout": TimeLeft(until, connect_seconds=CONNECT_SECONDS)}
        for _ in range(_REDIRECTS_MAX + 1):
            if not self._allowed(address):
                host = _host(address)
                log.error("replicate.output_refused", host=host, todo="see REPLICATE_OUTPUT_HOSTS")
                return Gone(f"{host} is not a host we download from")
            try:
                with self._web.stream("GET", address, headers=headers, extensions=bound) as response:
                    if response.has_redirect_location:
                        address = urljoin(address, response.headers["location"])
                        continue
                    if response.status_code in (401, 403, 404, 410):
                        return Gone(f"the output answered {response.status_code}")
                    if not response.is_success:
                        return NotYet(2.0, f"the output answered {response.status_code}")
                    return read_bounded(response, OUTPUT_MAX_BYTES, until)
            except AnswerTooLarge as error:
                return Gone(str(error))
            except httpx.HTTPError as error:
                return NotYet(2.0, f"the download broke off: {type(error).__name__}")
            except (httpx.InvalidURL, ValueError):  # from parsing: the address leads nowhere, however often it is tried
                return Gone("the output was redirected to a malformed address")
        return Gone("the output was redirected too often")

    def _allowed(self, address: str) -> bool:
        try:
            url = httpx.URL(address)
            host = url.host.lower()  # decoded only here, which may fail as well
        except (httpx.InvalidURL, ValueError):
            return False
        if self._loopback_origin is not None and url.scheme == "http":
            return (url.host, url.port) == self._loopback_origin and not url.userinfo
        known = any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts)
        return known and url.scheme == "https" and url.port is None and not url.userinfo


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host or "an address without a host"
    except (httpx.InvalidURL, ValueError):
        return "a malformed address"


def _inline(address: str) -> bytes | Gone:
    """The bytes of a data: address, in which sync mode gives outputs."""
    head, _, body = address.partition(",")
    if len(body) > OUTPUT_MAX_BYTES * 4 // 3:
        return Gone("the output in the answer is too large")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        return Gone("the output in the answer is malformed")
