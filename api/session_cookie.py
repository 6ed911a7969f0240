"""The page's proof of who it is: a signed cookie, which no script can read, in place of the host site's token."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
from fastapi import Request, Response

from api.auth import DEVELOPMENT_SECRET, decode_by_any
from shared.errors import NotFound, Unauthorized
from shared.settings import Settings

_ALGORITHM = "HS256"


class SessionCookie:
    """Made by us alone and believed until its time is over; nothing is kept of it on our side."""

    def __init__(self, settings: Settings) -> None:
        self._key = _key(settings)
        self._previous_keys = _previous_keys(settings)
        self._seconds = settings.session_seconds
        self._secure = settings.public_url.startswith("https://")
        # A browser takes the prefix for a promise: this host's own, sent over TLS only, set by no other host.
        self._name = "__Host-cuggu_session" if self._secure else "cuggu_session"

    def set(self, response: Response, user_id: UUID) -> None:
        """Sign this person in. Raises NotFound where the settings know no secret to sign with."""
        if self._key is None:
            raise NotFound
        # The account's id and not its address: a cookie that outlives its account must not make another one.
        claims = {"sub": str(user_id), "exp": datetime.now(UTC) + timedelta(seconds=self._seconds)}
        value = jwt.encode(claims, self._key, _ALGORITHM)
        # Lax: links to the page find it signed in, and what another site posts comes without it.
        response.set_cookie(
            self._name, value, max_age=self._seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def clear(self, response: Response) -> None:
        response.delete_cookie(self._name, path="/", secure=self._secure, httponly=True, samesite="lax")

    def user_id(self, request: Request) -> UUID | None:
        """Whose the request's cookie is; None if it brings none. Raises Unauthorized for one that is not valid now."""
        value = request.cookies.get(self._name)
        if value is None:
            return None
        if self._key is None:
            raise Unauthorized
        try:
            keys = [self._key, *self._previous_keys]
            claims = decode_by_any(value, keys, algorithms=[_ALGORITHM], options={"require": ["exp", "sub"]})
            return UUID(claims["sub"])
        except (jwt.PyJWTError, ValueError) as error:
            raise Unauthorized from error


def _key(settings: Settings) -> bytes | None:
    if settings.auth_mode == "development":
        return _made_of(DEVELOPMENT_SECRET)
    given = settings.session_secret or settings.jwt_secret
    return _made_of(given.get_secret_value()) if given else None


def _previous_keys(settings: Settings) -> list[bytes]:
    """Believed as well, while a secret is being rotated."""
    unset = settings.session_secret is None
    given = (settings.session_previous_secret, settings.jwt_previous_secret if unset else None)
    return [_made_of(secret.get_secret_value()) for secret in given if secret]


def _made_of(secret: str) -> bytes:
    # Never the very key of the tokens: a token must not pass for a cookie, nor a cookie for a token.
    return hmac.digest(secret.encode(), b"cuggu session cookie", hashlib.sha256)
