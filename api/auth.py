"""Who is it: a bearer token of the host site (or, in development, of `cuggu token`) becomes a user's id."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import jwt
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from api.signing_keys import SigningKeys
from shared import credits
from shared.errors import Unauthorized
from shared.former_addresses import address_key
from shared.models import User
from shared.settings import Settings

# Known to everyone, so it proves nothing: it serves loopback only, and only in development mode.
DEVELOPMENT_SECRET = "cuggu-photos-development-only-not-a-secret"  # noqa: S105
DEVELOPMENT_ALGORITHM = "HS256"
# The site's clock and ours may differ.
LEEWAY_SECONDS = 30

log = structlog.get_logger()


class Authenticator:
    """Checks tokens against exactly one algorithm, issuer and audience."""

    def __init__(self, settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._settings = settings
        self._sessions = sessions
        # A shared secret wins over an address: HS256 with a published key would be no proof of anything.
        published = settings.auth_mode == "jwt" and settings.jwt_algorithm != "HS256" and settings.jwt_jwks_url
        self._signing_keys = SigningKeys(published) if published else None
        self._address_key = address_key(settings)

    async def user_id(self, authorization: str | None) -> UUID:
        """The user of an `Authorization: Bearer ...` header, made at first sight with the sign-up grant.

        Raises:
            Unauthorized: there is no token, or it is not one of ours that is valid now.
            Unavailable: the issuer's keys cannot be fetched, so nobody can say.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized
        return await self._user_of(*await self._proved(token.strip()))

    async def present_user_id(self, user_id: UUID) -> UUID:
        """The same id, if its account is still there. Raises Unauthorized."""
        present = select(User.id).where(User.id == user_id, User.deleted_at.is_(None))
        async with self._sessions() as session:
            if await session.scalar(present) is None:
                raise Unauthorized
        return user_id

    async def development_user_id(self, email: str) -> UUID:
        """The user of an address that nothing proves. Raises Unauthorized in any mode but development."""
        if self._settings.auth_mode != "development":
            raise Unauthorized
        return await self._user_of(email, None)

    async def _user_of(self, email: str, proved_at: datetime | None) -> UUID:
        def provision(session: Session) -> UUID:
            granted, key = self._settings.signup_credits, self._address_key
            return credits.provision_user(session, email, granted, address_key=key, proved_at=proved_at)

        async with self._sessions.begin() as session:
            return await session.run_sync(provision)

    async def _proved(self, token: str) -> tuple[str, datetime | None]:
        """Whose token it is, and when it was issued, if it says so."""
        settings = self._settings
        keys: list[Any]
        algorithm: str = settings.jwt_algorithm
        try:
            if settings.auth_mode == "development":
                keys, algorithm = [DEVELOPMENT_SECRET], DEVELOPMENT_ALGORITHM
            elif self._signing_keys is not None:
                keys = [await self._signing_keys.key_of(token)]
            else:
                secrets = (settings.jwt_secret, settings.jwt_previous_secret)
                keys = [secret.get_secret_value() for secret in secrets if secret]
            claims = decode_by_any(
                token,
                keys,
                algorithms=[algorithm],  # pinned: the token's own `alg` is never believed
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "email"]},
            )
        except (jwt.PyJWTError, TypeError) as error:  # the second for a key of another kind than the algorithm's
            log.info("token.refused", reason=type(error).__name__)
            raise Unauthorized from error
        email = claims["email"]
        if not isinstance(email, str) or "@" not in email:
            raise Unauthorized
        issued_at = claims.get("iat")
        return email, None if issued_at is None else datetime.fromtimestamp(issued_at, UTC)


def decode_by_any(token: str, keys: Sequence[Any], **options: Any) -> dict[str, Any]:
    """The claims of a token that one of these keys signed: two, while one is being rotated. Raises jwt.PyJWTError."""
    for key in keys[:-1]:
        with suppress(jwt.InvalidSignatureError):
            return jwt.decode(token, key, **options)
    return jwt.decode(token, keys[-1], **options)


def development_token(settings: Settings, email: str, lifetime: timedelta = timedelta(days=1)) -> str:
    """A token as the host site would issue one; accepted in development mode only."""
    claims = {
        "email": email,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + lifetime,
    }
    return jwt.encode(claims, DEVELOPMENT_SECRET, DEVELOPMENT_ALGORITHM)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_loopback_in_development(settings: Settings, host: str) -> None:
    """Raises ValueError where anyone on the network could sign in as anyone."""
    if settings.auth_mode == "development" and not is_loopback(host):
        raise ValueError(
            f"AUTH_MODE=development would let anyone who reaches {host} sign in as anyone: "
            "listen on 127.0.0.1, or set AUTH_MODE=jwt"
        )
