"""The issuer's public keys: fetched from its JWKS address, believed for five minutes and no longer."""

import time
from typing import Any

import jwt
import structlog
from anyio import CapacityLimiter, to_thread

from shared.errors import Unauthorized, Unavailable

FETCH_TIMEOUT_SECONDS = 3
# A key that the issuer has withdrawn is believed for this long at the most.
BELIEVED_SECONDS = 300
# After a failure nobody asks for this long: whoever stands behind would wait for the same time-out.
LEFT_ALONE_SECONDS = 2

log = structlog.get_logger()


class SigningKeys:
    """Keys by the `kid` of a token. An unknown one has the keys fetched again, at most twice a minute (PyJWT)."""

    def __init__(self, url: str, *, believed_seconds: float = BELIEVED_SECONDS) -> None:
        self._url = url
        # Its other cache, of single keys, has no end in time: a withdrawn key would be believed until a restart.
        self._client = jwt.PyJWKClient(url, cache_keys=False, lifespan=believed_seconds, timeout=FETCH_TIMEOUT_SECONDS)
        # A thread of their own, for the client is a blocking one: an issuer that hangs must not take the threads
        # in which pictures are read and stored. More than one would only wait for the client's lock.
        self._thread = CapacityLimiter(1)
        self._closed_until = 0.0

    async def key_of(self, token: str) -> Any:
        """The key that this token claims to be signed with.

        Raises:
            Unauthorized: the issuer has no such key.
            Unavailable: the issuer does not answer, or not with keys.
            jwt.InvalidTokenError: it is no token at all.
        """
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None:
            raise Unauthorized
        known = self._believed().get(kid)
        return known or await to_thread.run_sync(self._fetch, kid, limiter=self._thread)

    def _believed(self) -> dict[str, Any]:
        cached = self._client.jwk_set_cache.get() if self._client.jwk_set_cache else None
        keys = cached.keys if cached else []
        return {key.key_id: key.key for key in keys if key.key_id and key.public_key_use in ("sig", None)}

    def _fetch(self, kid: str) -> Any:
        if time.monotonic() < self._closed_until:
            raise Unavailable(retry_after_seconds=LEFT_ALONE_SECONDS)
        try:
            return self._client.get_signing_key(kid).key
        except (jwt.PyJWTError, ValueError, OSError) as error:
            # Keys that were fetched, and this one not among them; or whatever else came instead of keys.
            if type(error) is jwt.PyJWKClientError and self._believed():
                log.info("token.refused", reason="UnknownKey")
                raise Unauthorized from error
            self._closed_until = time.monotonic() + LEFT_ALONE_SECONDS
            log.error("jwks.unreachable", url=self._url, error=str(error))
            raise Unavailable(retry_after_seconds=LEFT_ALONE_SECONDS) from error
