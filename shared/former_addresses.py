"""The books of addresses whose accounts were deleted: no second sign-up grant, and no way back by an old token.

An address is kept as a keyed hash. Who has the database alone cannot even try addresses; the key stands in the
settings. Its row leads to no account, and is forgotten after a year.
"""

import hashlib
import hmac
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.deletion_models import FormerAddress
from shared.settings import Settings

KEPT_DAYS = 365
# Known to everyone, as all of development's keys are.
_DEVELOPMENT_SECRET = "cuggu-photos-development-only-addresses"  # noqa: S105


def address_key(settings: Settings) -> bytes | None:
    """The key of the hashes; None where the settings know no secret to make one of, and addresses are forgotten whole.

    Made of ADDRESS_HASH_SECRET, or else of the secrets that sign people in.
    """
    given = settings.address_hash_secret or settings.session_secret or settings.jwt_secret
    if given is not None:
        secret = given.get_secret_value()
    elif settings.auth_mode == "development":
        secret = _DEVELOPMENT_SECRET
    else:
        return None
    return hmac.digest(secret.encode(), b"cuggu former address", hashlib.sha256)


def remember(session: Session, email: str, key: bytes) -> None:
    """The account of this address is being deleted."""
    row = insert(FormerAddress).values(address_hash=_hash(email, key), left_at=db_now())
    session.execute(
        row.on_conflict_do_update(index_elements=[FormerAddress.address_hash], set_={"left_at": row.excluded.left_at})
    )


def left_at(session: Session, email: str, key: bytes) -> datetime | None:
    """When the last account of this address was deleted; None if there was none, or a year has passed."""
    return session.scalar(
        select(func.date_trunc("second", FormerAddress.left_at)).where(FormerAddress.address_hash == _hash(email, key))
    )


def forget_old(session: Session) -> None:
    """Whose year is over."""
    session.execute(delete(FormerAddress).where(FormerAddress.left_at < db_now() - timedelta(days=KEPT_DAYS)))


def _hash(email: str, key: bytes) -> str:
    return hmac.new(key, email.strip().lower().encode(), hashlib.sha256).hexdigest()
