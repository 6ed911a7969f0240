"""Who sent this webhook: Replicate signs by the Standard Webhooks scheme (Replicate docs: verify-webhook)."""

import re
from collections.abc import Mapping, Sequence

import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from api.redis_guard import RedisGuard
from shared.errors import Unauthorized
from shared.metrics import WEBHOOKS

# Twice the tolerance of the signature's time (300 s, to either side), and a minute for processes whose clocks differ:
# after that a replay is refused for its age.
REMEMBERED_SECONDS = 660
# HMAC-SHA256 in base64. A header may hold signatures of other versions, too; the library stops at the first that is
# not formed as it expects, and so would never see ours behind it.
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")

log = structlog.get_logger()


class WebhookVerifier:
    """Believes what was signed with one of our secrets (two while one is rotated) within five minutes, once.

    Raises:
        ValueError: when made, for a secret that is not `whsec_` and base64.
    """

    def __init__(self, secrets: Sequence[SecretStr], redis: Redis, guard: RedisGuard) -> None:
        self._keys = [Webhook(secret.get_secret_value()) for secret in secrets]
        self._redis = redis
        self._guard = guard

    def check(self, body: bytes, headers: Mapping[str, str]) -> str:
        """The webhook's id, when the raw body bears a good signature. Raises Unauthorized."""
        ours = filter(_SIGNATURE.fullmatch, headers.get("webhook-signature", "").split(" "))
        signed = {**headers, "webhook-signature": " ".join(ours)}
        for key in self._keys:
            try:
                key.verify(body, signed, json_parse=False)
            except (WebhookVerificationError, ValueError):  # the second for headers that are not even well formed
                continue
            return headers["webhook-id"]
        WEBHOOKS.labels("refused").inc()
        log.warning("webhook.refused", size_bytes=len(body))
        raise Unauthorized

    async def is_new(self, webhook_id: str) -> bool:
        """False for one that came before. Without Redis all are new: then a replay costs one look at the row."""

        async def remember() -> bool:
            return bool(await self._redis.set(f"cuggu:webhook:{webhook_id}", 1, ex=REMEMBERED_SECONDS, nx=True))

        return await self._guard.ask("webhook.remember", remember, True)
