"""One post to the site: signed by the Standard Webhooks scheme, to public addresses only, bounded in time and size."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import httpcore
from standardwebhooks import Webhook

from shared.settings import Settings
from worker.checked_address import PublicAddresses

POST_SECONDS = 10.0  # for all of it: the look-up, the connection, the answer
ERROR_MAX_CHARS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a post; `http_status` is None where no answer came, and `says` tells why."""

    http_status: int | None
    says: str

    @property
    def taken(self) -> bool:
        return self.http_status is not None and 200 <= self.http_status < 300


class WebhookSender:
    """Posts to SITE_WEBHOOK_URL. Thread-safe.

    No redirect is followed, no proxy of the environment asked, and of the answer nothing is read but its head.

    Raises:
        ValueError: when made without an address.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.site_webhook_url is None:
            raise ValueError("WebhookSender needs site_webhook_url")
        self._url = settings.site_webhook_url
        self._keys = [Webhook(secret.get_secret_value()) for secret in settings.site_webhook_secrets]
        self._private_too = settings.site_webhook_private_addresses
        self._tls = httpcore.default_ssl_context()

    def post(self, webhook_id: str, body: str) -> Answer:
        """Post JSON, signed at this moment with every secret; the id tells the site what it has had before."""
        now = datetime.now(UTC)
        signature = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(webhook_id, now, body) for key in self._keys),
        }
        return self._post(signature, body)

    def post_unsigned(self) -> Answer:
        """What a forger would post, and the site must refuse: to see whether it can be reached."""
        return self._post({}, "{}")

    def _post(self, signature: Mapping[str, str], body: str) -> Answer:
        headers = {"content-type": "application/json", "user-agent": "cuggu-photos", **signature}
        try:
            status = anyio.run(self._status, headers, body.encode())
        except TimeoutError:
            return Answer(None, f"no answer within {POST_SECONDS:g} s")
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            return Answer(None, f"{type(error).__name__}: {error}"[:ERROR_MAX_CHARS])
        return Answer(status, f"HTTP {status}")

    async def _status(self, headers: Mapping[str, str], body: bytes) -> int:
        # Around all of it: httpcore's own limits are for one wait each, however many there are.
        with anyio.fail_after(POST_SECONDS):
            async with (
                httpcore.AsyncConnectionPool(
                    ssl_context=self._tls, network_backend=PublicAddresses(private_too=self._private_too)
                ) as pool,
                pool.stream("POST", self._url, headers=list(headers.items()), content=body) as answer,
            ):
                return answer.status
