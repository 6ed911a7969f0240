"""Objects that no row promises: written down before they are put, so that none is ever forgotten (I6).

Storage and database cannot change in one transaction. So a key is expected here first, then the object is put, and
the transaction that writes the promising row takes the key away again. A row that stops promising an object lets it
go here, in the same transaction. Whatever is still here when its time has come is deleted from the storage.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Text, Uuid, bindparam, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.deletion_models import LooseObject

# Longer than any put takes, its retries included, and short enough for the promise of 15 minutes.
EXPECTED_SECONDS = 600
# Longer than one deletion takes: until then nobody else tries the same keys.
DELETING_SECONDS = 60
# How long an object that somebody was still putting when it was to be deleted may lie there.
AGAIN_SECONDS = 20


def expect(session: Session, *object_keys: str) -> None:
    """Objects are about to be put there; in `EXPECTED_SECONDS` a row promises each of them, or it goes."""
    _write(session, object_keys, EXPECTED_SECONDS)


def keep(session: Session, *object_keys: str) -> None:
    """Rows written in this transaction promise the objects."""
    session.execute(_KEEP, {"kept": object_keys})


def let_go(session: Session, object_key: str) -> None:
    """No row promises the object after this transaction: delete it as soon as possible."""
    _write(session, [object_key], 0)


def let_all_go(session: Session, object_keys: Iterable[str], deletion_id: UUID | None = None) -> int:
    """The same for many, by a user's wish or because their time is over; how many."""
    keys = list(object_keys)
    if keys:
        row = _rows(keys, 0, deletion_id)
        written = {"delete_after": row.excluded.delete_after, "deletion_id": row.excluded.deletion_id}
        session.execute(row.on_conflict_do_update(index_elements=[LooseObject.object_key], set_=written))
    return len(keys)


def hurry(session: Session, prefixes: Iterable[str], deletion_id: UUID) -> int:
    """Keys that begin so and are expected will never be promised: delete now what lies there; how many.

    A worker that died, or one that still puts, cannot be told apart. So the object is deleted again and again until the
    key's time has come, and only then forgotten.
    """
    hurried = session.scalars(
        update(LooseObject)
        .where(
            or_(*(LooseObject.object_key.startswith(prefix, autoescape=True) for prefix in prefixes)),
            LooseObject.delete_after > db_now(),
        )
        .values(again_after=LooseObject.delete_after, delete_after=db_now(), deletion_id=deletion_id)
        .returning(LooseObject.object_key)
        .execution_options(synchronize_session=False)
    ).all()
    return len(hurried)


def adopt(session: Session, object_keys: Iterable[str]) -> None:
    """Objects that were found and that nobody has ever written down: delete them, unless somebody does by now."""
    session.execute(_rows(object_keys, 0).on_conflict_do_nothing())


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
    """The objects are gone from the storage; those that may still be put come again until that is over."""
    keys = list(object_keys)
    over = or_(LooseObject.again_after.is_(None), LooseObject.again_after <= db_now())
    session.execute(delete(LooseObject).where(LooseObject.object_key.in_(keys), over))
    session.execute(
        update(LooseObject)
        .where(LooseObject.object_key.in_(keys))
        .values(delete_after=func.least(LooseObject.again_after, db_now() + timedelta(seconds=AGAIN_SECONDS)))
        .execution_options(synchronize_session=False)
    )


# Each photo and portrait passes here: put together once.
_KEEP = (
    delete(LooseObject)
    .where(LooseObject.object_key.in_(bindparam("kept", expanding=True)))
    .execution_options(synchronize_session=False)
)


def _write(session: Session, object_keys: Iterable[str], seconds: float) -> None:
    row = _rows(object_keys, seconds)
    session.execute(
        row.on_conflict_do_update(
            index_elements=[LooseObject.object_key], set_={"delete_after": row.excluded.delete_after}
        )
    )


def _rows(object_keys: Iterable[str], seconds: float, deletion_id: UUID | None = None) -> Insert:
    """One array and not many rows of values, which SQLAlchemy would compile anew each time (read in 2.0)."""
    keys = func.unnest(literal(list(object_keys), ARRAY(Text)))
    row = select(keys, db_now() + timedelta(seconds=seconds), literal(deletion_id, Uuid))
    return insert(LooseObject).from_select(["object_key", "delete_after", "deletion_id"], row)
