"""Bring rows and storage together after a restore, however much they differ (`cuggu audit --mend`).

The sweep mends accidents by itself, and touches nothing where much is wrong: that is the wrong bucket, or a database
from a backup. Which of the two it is, a person decides.
"""

from collections.abc import Sequence

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from shared import mending
from shared.audit_objects import Stretch, look_at_stretch
from shared.storage import ObjectStorage

OBJECTS_PER_STRETCH = 5000


def differences(engine: Engine, storage: ObjectStorage) -> list[Stretch]:
    """What no row names and what no object is there for, over the whole storage. Raises StorageUnavailable."""
    found, after = list[Stretch](), ""
    while not found or found[-1].until is not None:
        found.append(look_at_stretch(engine, storage, after, OBJECTS_PER_STRETCH))
        after = found[-1].until or ""
    return found


def unknown(stretches: Sequence[Stretch]) -> int:
    """How many objects no row names."""
    return sum(len(stretch.orphans) for stretch in stretches)


def lost(stretches: Sequence[Stretch]) -> int:
    """How many objects are promised by a row and not there."""
    return sum(len(stretch.missing) for stretch in stretches)


def mend(engine: Engine, stretches: Sequence[Stretch]) -> int:
    """Have the sweep delete what no row names, and let rows stop promising what is lost; how many rows did.

    Only while no API and no worker runs: an object that is just being put may have no row yet.
    """
    written_off = 0
    for stretch in stretches:
        with Session(engine) as session, session.begin():
            mending.adopt(session, [info.key for info in stretch.orphans])
        for key, rows in stretch.missing.items():
            for table, row_id in rows:
                with Session(engine) as session, session.begin():
                    written_off += mending.write_off(session, key, table, row_id)
    return written_off
