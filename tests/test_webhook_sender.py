"""One post to the site: whom it reaches, whom it never reaches, and how little of an answer it takes."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from shared.settings import Settings
from tests.api_client import hanging_server
from tests.doubles.receiver import Received, Receiver, receiver
from worker import checked_address, webhook_sender
from worker.checked_address import is_public
from worker.webhook_sender import WebhookSender

NEW, OLD, OTHER = (f"whsec_{letter * 32}" for letter in "ABC")
BODY = '{"type":"job.completed","data":{"name":"김지우"}}'
NAME = "hooks.site.test"


@pytest.fixture
def site() -> Iterator[Receiver]:
    with receiver() as web:
        yield web


@pytest.fixture
def sender(offline_settings: Settings) -> Callable[..., WebhookSender]:
    def make(url: str, *, private: bool = True, secrets: tuple[str, ...] = (NEW,)) -> WebhookSender:
        update = {
            "site_webhook_url": url,
            "site_webhook_secrets": tuple(map(SecretStr, secrets)),
            "site_webhook_private_addresses": private,
        }
        return WebhookSender(offline_settings.model_copy(update=update))

    return make


def verified(post: Received, secret: str) -> Any:
    return Webhook(secret).verify(post.body, dict(post.headers))


# --- What is sent


def test_the_sites_library_believes_it_by_either_secret_and_by_no_other(
    site: Receiver, sender: Callable[..., WebhookSender]
) -> None:
    answer = sender(f"{site.url}/hooks?shop=1", secrets=(NEW, OLD)).post("delivery-1", BODY)
    assert (answer.taken, answer.http_status) == (True, 204)
    (post,) = site.posts
    assert (post.path, post.body.decode()) == ("/hooks?shop=1", BODY)
    assert (post.headers["webhook-id"], post.headers["content-type"]) == ("delivery-1", "application/json")
    for secret in (NEW, OLD):
        assert verified(post, secret)["data"] == {"name": "김지우"}
    with pytest.raises(WebhookVerificationError):
        verified(post, OTHER)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_anything_but_2xx_is_not_taken_and_no_redirect_is_followed(
    site: Receiver, sender: Callable[..., WebhookSender], status: int
) -> None:
    site.statuses.append(status)
    answer = sender(site.url).post("delivery-1", BODY)
    assert (answer.taken, answer.http_status, answer.says) == (False, status, f"HTTP {status}")
    assert len(site.posts) == 1


def test_no_proxy_of_the_environment_is_asked(
    site: Receiver, sender: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setitem(os.environ, name, "")
    assert sender(site.url).post("delivery-1", BODY).taken


# --- What cannot be waited for


def test_nobody_listening_is_said(sender: Callable[..., WebhookSender]) -> None:
    answer = sender("http://127.0.0.1:1/").post("delivery-1", BODY)
    assert (answer.taken, answer.http_status) == (False, None)
    assert answer.says.startswith("ConnectError")


@contextmanager
def answering(answer: bytes, again_every_seconds: float | None = None) -> Iterator[str]:
    """A server that reads nothing and says this, once or again and again; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    connection.sendall(answer)
                    while again_every_seconds is not None:
                        time.sleep(again_every_seconds)
                        connection.sendall(answer)
                    while connection.recv(65536):
                        pass
                except OSError:
                    return  # the sender has hung up

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive(), "the connection was left open"


def test_silence_and_dripping_end_in_time(
    sender: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "POST_SECONDS", 0.5)
    began = time.monotonic()
    with hanging_server() as address:
        assert sender(f"http://{address}").post("delivery-1", BODY).says == "no answer within 0.5 s"
    with answering(b"H", again_every_seconds=0.05) as url:
        assert not sender(url).post("delivery-1", BODY).taken
    with answering(b"HTTP/1.1 200 OK\r\nx-more: 1\r\n") as url:  # a head without an end
        assert sender(url).post("delivery-1", BODY).says == "no answer within 0.5 s"
    assert time.monotonic() - began < 8


def test_a_look_up_that_hangs_ends_in_time(
    sender: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "POST_SECONDS", 0.3)
    over = threading.Event()
    monkeypatch.setattr(checked_address.socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    try:
        began = time.monotonic()
        assert sender(f"http://{NAME}").post("delivery-1", BODY).says == "no answer within 0.3 s"
        assert time.monotonic() - began < 8
    finally:
        over.set()


def test_of_a_body_without_end_nothing_is_waited_for(sender: Callable[..., WebhookSender]) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n"
    with answering(head) as url:
        began = time.monotonic()
        assert sender(url).post("delivery-1", BODY).taken
        assert time.monotonic() - began < 8


# --- Whom it never reaches

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:808:808::"),
    *("2001:0:808:808::", "100::1", "5f00::1", "4000::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:7f00:1]"],
)
def test_no_spelling_of_this_machine_is_reached(
    site: Receiver, sender: Callable[..., WebhookSender], host: str
) -> None:
    port = site.url.rsplit(":", 1)[1]
    for scheme in ("http", "https"):
        answer = sender(f"{scheme}://{host}:{port}/", private=False).post("delivery-1", BODY)
        assert not answer.taken
        assert answer.says.startswith("NotPublic")
    assert site.posts == []


def look_ups(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have the name lead to these addresses, one answer after another, the last for ever; the names asked for."""
    left, asked = list(answers), []

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(checked_address.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["fe80::1%lo"]]
)
def test_a_name_with_one_address_that_is_not_public_is_not_called_at_all(
    sender: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    called: list[str] = []

    async def connect(_: object, host: str, *__: object) -> object:
        called.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    look_ups(monkeypatch, addresses)
    assert sender(f"https://{NAME}/", private=False).post("delivery-1", BODY).says.startswith("NotPublic")
    assert called == []
    look_ups(monkeypatch, ["8.8.8.8", "8.8.4.4", "8.8.8.8"])
    sender(f"https://{NAME}/", private=False).post("delivery-1", BODY)
    assert called == ["8.8.8.8", "8.8.4.4"], "what is public is called, each address once"


def certificate_for(name: str, directory: Path) -> Path:
    """A self-signed certificate with its key, as one PEM file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path = directory / f"{name}.pem"
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path


@pytest.mark.parametrize(("certified", "taken"), [(NAME, True), ("other.site.test", False)])
def test_the_checked_address_is_called_under_the_names_certificate_and_the_name_is_asked_for_once(
    sender: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certified: str, taken: bool
) -> None:
    pem = certificate_for(certified, tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    named: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: named.append(name)
    monkeypatch.setattr(httpcore, "default_ssl_context", lambda: ssl.create_default_context(cafile=str(pem)))
    monkeypatch.setattr(checked_address, "is_public", lambda address: str(address) == "127.0.0.1")
    with receiver(tls) as site:
        port = site.url.rsplit(":", 1)[1]
        # The name's owner would answer with another address, had we asked again.
        asked = look_ups(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
        answer = sender(f"https://{NAME}:{port}/", private=False).post("delivery-1", BODY)
        assert answer.taken is taken, answer.says
        assert asked == [NAME]
        assert named == [NAME]
        assert [post.headers["host"] for post in site.posts] == [f"{NAME}:{port}"] * taken


# --- Settings


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"url": "http://site.example/hooks"}, "must begin with https://"),
        ({"url": "ftp://site.example/hooks", "private": True}, "must begin with https://"),
        ({"url": "https://"}, "must name a host"),
        ({"url": "https://user:pass@site.example/"}, "neither a user"),
        ({"url": "https://site.example/#there"}, "fragment"),
        ({"url": "https://site.example:70000/"}, "SITE_WEBHOOK|port|Port"),
        ({"url": "https://꾸꾸.example/"}, "ASCII"),
        ({"secrets": ()}, "needs SITE_WEBHOOK_SECRETS"),
        ({"secrets": (NEW, "whsec_not-base64")}, "base64 of 24 to 64 bytes"),
        ({"secrets": ("whsec_AAAA",)}, "base64 of 24 to 64 bytes"),
        ({"secrets": ("A" * 32,)}, "must each be whsec_"),
    ],
)
def test_a_setting_that_no_webhook_could_be_sent_with_is_refused_at_the_start(
    clean_environment: None, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as wrong:
        Settings(
            _env_file=None,
            database_url="postgresql://here",
            redis_url="redis://here",
            site_webhook_url=values.get("url", "https://site.example/hooks"),
            site_webhook_secrets=values.get("secrets", (NEW,)),
            site_webhook_private_addresses=values.get("private", False),
        )
    assert not any(str(secret) in str(wrong.value) for secret in values.get("secrets", (NEW,)))
