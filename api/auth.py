"""Who is it: a bearer token of the host site (or, in development, of `cuggu token`) becomes a user's id."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
# A token that was found good is not computed again for this long, by everyone who polls.
BELIEVED_SECONDS = 30
BELIEVED_TOKENS = 4096

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Proof:
    """What a valid token says: whose it is, as `users` has the address, and since when, if it says so."""

    email: str
    issued_at: datetime | None


Caller = Proof | UUID  # what a token proves, or the account that a session cookie names


class Authenticator:
    """Checks tokens against exactly one algorithm, issuer and audience."""

    def __init__(self, settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._settings = settings
        self._sessions = sessions
        # A shared secret wins over an address: HS256 with a published key would be no proof of anything.
        published = settings.auth_mode == "jwt" and settings.jwt_algorithm != "HS256" and settings.jwt_jwks_url
        self._signing_keys = SigningKeys(published) if published else None
        self._address_key = address_key(settings)
        self._believed: dict[bytes, tuple[Proof, float]] = {}  # by a token's hash: what it proves, and until when

    async def proof(self, authorization: str | None) -> Proof:
        """What an `Authorization: Bearer ...` header proves.

        Raises:
            Unauthorized: there is no token, or it is not one of ours that is valid now.
            Unavailable: the issuer's keys cannot be fetched, so nobody can say.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized
        token = token.strip()
        known = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        proof, until = self._believed.get(known, (None, 0.0))
        if proof is not None and time.time() < until:
            return proof
        self._believed.pop(known, None)
        proof, expires_at = await self._prove(token)
        self._forget_some()
        self._believed[known] = proof, min(expires_at + LEEWAY_SECONDS, time.time() + BELIEVED_SECONDS)
        return proof

    def _forget_some(self) -> None:
        """Those at the front, where the oldest are, that are over; and one when there are too many."""
        while self._believed:
            oldest, (_, until) = next(iter(self._believed.items()))
            if until > time.time() and len(self._believed) < BELIEVED_TOKENS:
                return
            del self._believed[oldest]

    async def user_id(self, caller: Caller) -> UUID:
        """Whose account it is; made at first sight of a proved address, with the sign-up grant.

        Raises:
            Unauthorized: the account was deleted, since the token was issued or the cookie set.
        """
        if isinstance(caller, Proof):
            return await self._user_of(caller.email, caller.issued_at)
        present = select(User.id).where(User.id == caller, User.deleted_at.is_(None))
        async with self._sessions() as session:
            if await session.scalar(present) is None:
                raise Unauthorized
        return caller

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

    async def _prove(self, token: str) -> tuple[Proof, float]:
        """What the token proves, and when it expires (Unix time)."""
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
        issued_at = None if "iat" not in claims else datetime.fromtimestamp(int(claims["iat"]), UTC)
        return Proof(credits.known_as(email), issued_at), float(claims["exp"])


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
