"""Objects that no row promises: written down before they are put, so that none is ever forgotten (I6).

Storage and database cannot change in one transaction. So a key is expected here first, then the object is put, and
the transaction that writes the promising row takes the key away again. A row that stops promising an object lets it
go here, in the same transaction. Whatever is still here when its time has come is deleted from the storage.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.models import LooseObject

# Longer than any put takes, its retries included, and short enough for the promise of 15 minutes.
EXPECTED_SECONDS = 600
# Longer than one deletion takes: until then nobody else tries the same keys.
DELETING_SECONDS = 60


def expect(session: Session, object_key: str) -> None:
    """An object is about to be put there; in `EXPECTED_SECONDS` a row promises it, or it goes."""
    _write(session, object_key, EXPECTED_SECONDS)


def keep(session: Session, object_key: str) -> None:
    """A row written in this transaction promises the object."""
    session.execute(delete(LooseObject).where(LooseObject.object_key == object_key))


def let_go(session: Session, object_key: str) -> None:
    """No row promises the object after this transaction: delete it as soon as possible."""
    _write(session, object_key, 0)


def take_due(session: Session, limit: int) -> Sequence[str]:
    """Up to `limit` keys whose objects are to be deleted now; each comes again if `forget` is not called."""
    due = (
        select(LooseObject.object_key)
        .where(LooseObject.delete_after <= db_now())
        .order_by(LooseObject.delete_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return session.scalars(
        update(LooseObject)
        .where(LooseObject.object_key.in_(select(due.c.object_key)))
        .values(delete_after=db_now() + timedelta(seconds=DELETING_SECONDS))
        .returning(LooseObject.object_key)
        .execution_options(synchronize_session=False)
    ).all()


def forget(session: Session, object_keys: Iterable[str]) -> None:
    """The objects are gone from the storage."""
    session.execute(delete(LooseObject).where(LooseObject.object_key.in_(list(object_keys))))


def _write(session: Session, object_key: str, seconds: float) -> None:
    row = insert(LooseObject).values(object_key=object_key, delete_after=db_now() + timedelta(seconds=seconds))
    session.execute(
        row.on_conflict_do_update(
            index_elements=[LooseObject.object_key], set_={"delete_after": row.excluded.delete_after}
        )
    )
