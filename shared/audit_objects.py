"""Prove that rows and objects belong together (I6), and that the photos which were paid for are there (I2).

Two ordered streams are merged, the rows' keys and the storage's listing, so neither is ever in memory as a whole.
Objects change while they are listed. What looks wrong is looked at again: rows, then the object, then rows once more;
only what is wrong by every look is an offence.
"""
# ruff: noqa: S608 - all that is put into the statements are words of this file

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from heapq import merge
from itertools import groupby, islice
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from shared.audit_findings import Finding, Offence
from shared.storage import FOLDERS, ObjectInfo, ObjectStorage

WITHOUT_ROW = "every object is promised by a row, or is due to be deleted"
WITHOUT_OBJECT = "every object that a row promises is there, and is not due to be deleted"
WHOLE = "the photos whose credit was kept are there, at their full size"

# How long past its time a loose object may wait for its deletion (I6).
LOOSE = "interval '15 minutes'"
ROWS_PER_FETCH = 2000
LOOKS_PER_BATCH = 500

# Keys in the order of their bytes, as the storage lists them. A photo's promise is the job's too where it was paid for.
_PROMISES = f"""
SELECT object_key AS key, 'photos' AS "table", photos.id::text AS id, size_bytes,
    CASE WHEN jobs.status IN ('COMPLETED', 'CANCELED') THEN job_id::text END AS paid_by, false AS forgotten
FROM photos JOIN jobs ON jobs.id = job_id WHERE object_key IS NOT NULL
UNION ALL
SELECT thumbnail_key, 'photos', id::text, NULL, NULL, false FROM photos WHERE thumbnail_key IS NOT NULL
UNION ALL
SELECT 'portraits/' || portrait_id, 'jobs', id::text, NULL, NULL, false
FROM jobs WHERE portrait_deleted_at IS NULL
UNION ALL
SELECT object_key, 'loose_objects', object_key, NULL, NULL, delete_after < cuggu_now() - {LOOSE}
FROM loose_objects
"""
_ALL = text(f'SELECT * FROM ({_PROMISES}) promise ORDER BY key COLLATE "C"')
# A stretch of the storage. All keys of a job lie together, so its rows are found by its id.
_STRETCH = text(f"""
SELECT * FROM (
    SELECT object_key AS key, 'photos' AS "table", photos.id::text AS id, size_bytes,
        CASE WHEN jobs.status IN ('COMPLETED', 'CANCELED') THEN job_id::text END AS paid_by, false AS forgotten
    FROM photos JOIN jobs ON jobs.id = job_id
    WHERE object_key IS NOT NULL AND job_id BETWEEN :first_photo AND :last_photo
    UNION ALL
    SELECT thumbnail_key, 'photos', id::text, NULL, NULL, false
    FROM photos WHERE thumbnail_key IS NOT NULL AND job_id BETWEEN :first_thumbnail AND :last_thumbnail
    UNION ALL
    SELECT 'portraits/' || portrait_id, 'jobs', id::text, NULL, NULL, false
    FROM jobs WHERE portrait_deleted_at IS NULL AND portrait_id BETWEEN :first_portrait AND :last_portrait
    UNION ALL
    SELECT object_key, 'loose_objects', object_key, NULL, NULL, delete_after < cuggu_now() - {LOOSE}
    FROM loose_objects
) promise
WHERE key COLLATE "C" > :after AND (CAST(:until AS text) IS NULL OR key COLLATE "C" <= :until)
ORDER BY key COLLATE "C"
""")
_OF_KEYS = text(f"SELECT * FROM ({_PROMISES}) promise WHERE key = ANY(:keys)")


class _Promise(NamedTuple):
    key: str
    table: str
    id: str
    size_bytes: int | None
    paid_by: str | None  # the job whose credit was kept for this photo
    forgotten: bool  # a loose object that should have been deleted long ago


class _Kind(Enum):
    ORPHAN = auto()
    MISSING = auto()
    TOLD_TWICE = auto()  # with the one before
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class _Wrong:
    """One offence against one of the three checks of this file."""

    check: str
    offence: Offence
    kind: _Kind = _Kind.OTHER
    key: str = ""


def prove_objects(snapshot: Connection, engine: Engine, storage: ObjectStorage) -> list[Finding]:
    """Compare all rows with all objects. Raises StorageUnavailable."""
    counts = {WITHOUT_ROW: 0, WITHOUT_OBJECT: 0, WHOLE: 0}
    suspects: dict[str, set[_Wrong]] = {}
    with snapshot.execution_options(yield_per=ROWS_PER_FETCH).execute(_ALL) as rows:
        for key, promises, found in _side_by_side((_Promise(*row) for row in rows), storage.list("")):
            counts[WITHOUT_ROW] += found is not None
            counts[WITHOUT_OBJECT] += sum(promise.table != "loose_objects" for promise in promises)
            counts[WHOLE] += sum(promise.paid_by is not None for promise in promises)
            if wrong := set(_judge(key, promises, found)):
                suspects[key] = wrong
    wrongs = list(_looked_at_again(engine, storage, suspects))
    return [
        Finding(promise, check, table, counts[check], tuple(wrong.offence for wrong in wrongs if wrong.check == check))
        for promise, check, table in _CHECKS
    ]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a stretch of the storage holds and lacks, by looks that agree.

    `orphans` are objects that no row names; `missing` are rows that promise an object which is not there, by its key.
    """

    until: str | None  # the last key that was looked at; None at the storage's end
    objects: int
    promises: int
    orphans: tuple[ObjectInfo, ...]
    missing: Mapping[str, Sequence[tuple[str, str]]]  # (table, id) of each row
    others: tuple[Offence, ...]  # that nobody can mend without knowing why


def look_at_stretch(engine: Engine, storage: ObjectStorage, after: str, limit: int) -> Stretch:
    """Compare up to `limit` objects whose keys come after `after` with all rows of that stretch.

    Objects outside our folders are passed over: they can be no orphans of ours. No transaction is open while the
    storage is asked. Raises StorageUnavailable.
    """
    listed = list(islice(storage.list("", after), limit))
    until = listed[-1].key if len(listed) == limit else None
    objects = [info for info in listed if info.key.startswith(FOLDERS)]
    with engine.connect() as connection:
        promises = [_Promise(*row) for row in connection.execute(_STRETCH, _stretch(after, until))]
    suspects = {
        key: wrong
        for key, of_key, found in _side_by_side(promises, objects)
        if (wrong := set(_judge(key, of_key, found)))
    }
    infos = {info.key: info for info in objects}
    orphans, missing, others = list[ObjectInfo](), dict[str, list[tuple[str, str]]](), list[Offence]()
    for again in _looked_at_again(engine, storage, suspects):
        match again.kind:
            case _Kind.ORPHAN:
                orphans.append(infos[again.key])
            case _Kind.MISSING:
                missing.setdefault(again.key, []).append((again.offence.table, again.offence.id))
            case _Kind.OTHER:
                others.append(again.offence)
    return Stretch(until, len(objects), len(promises), tuple(orphans), missing, tuple(others))


def unproved(why: str) -> list[Finding]:
    """The findings of `prove_objects` when it could not be done."""
    return [Finding(promise, check, table, 0, (), unproved=why) for promise, check, table in _CHECKS]


_CHECKS = (("I2", WHOLE, "photos"), ("I6", WITHOUT_ROW, "objects"), ("I6", WITHOUT_OBJECT, "rows"))


def _side_by_side(
    promises: Iterable[_Promise], objects: Iterable[ObjectInfo]
) -> Iterator[tuple[str, Sequence[_Promise], ObjectInfo | None]]:
    """Each key once, with the rows that name it and its object; both streams come in the order of keys."""
    for key, group in groupby(merge(promises, objects, key=attrgetter("key")), key=attrgetter("key")):
        both = list(group)
        found = next((item for item in both if isinstance(item, ObjectInfo)), None)
        yield key, [item for item in both if isinstance(item, _Promise)], found


def _judge(key: str, promises: Sequence[_Promise], found: ObjectInfo | None) -> Iterator[_Wrong]:
    loose = [promise for promise in promises if promise.table == "loose_objects"]
    kept = [promise for promise in promises if promise.table != "loose_objects"]
    if found is not None and not kept:
        if not loose:
            yield _Wrong(WITHOUT_ROW, Offence("objects", key, "no row names it"), _Kind.ORPHAN, key)
        elif loose[0].forgotten:
            yield _Wrong(WITHOUT_ROW, Offence("objects", key, "it should have been deleted more than 15 minutes ago"))
    for promise in kept:
        if loose:
            yield _Wrong(WITHOUT_OBJECT, Offence(promise.table, promise.id, f"{key} is due to be deleted"))
        if len(kept) > 1:
            yield _Wrong(WITHOUT_OBJECT, Offence(promise.table, promise.id, f"{key} is promised by another row too"))
        if found is None:
            absent = Offence(promise.table, promise.id, f"{key} is not there")
            yield _Wrong(WITHOUT_OBJECT, absent, _Kind.MISSING, key)
            if promise.paid_by:
                told = Offence("jobs", promise.paid_by, f"its photo {promise.id} is not there")
                yield _Wrong(WHOLE, told, _Kind.TOLD_TWICE, key)
        elif promise.size_bytes is not None and promise.size_bytes != found.size_bytes:
            sizes = f"{key} has {found.size_bytes} bytes, not {promise.size_bytes}"
            if promise.paid_by:
                yield _Wrong(WHOLE, Offence("jobs", promise.paid_by, f"its photo {promise.id} is not whole: {sizes}"))
            else:
                yield _Wrong(WITHOUT_OBJECT, Offence(promise.table, promise.id, sizes))


def _looked_at_again(engine: Engine, storage: ObjectStorage, suspects: dict[str, set[_Wrong]]) -> Iterator[_Wrong]:
    """What is still wrong now. Rows before the object and after it: whoever moves either moves both in some order."""
    keys = list(suspects)
    for start in range(0, len(keys), LOOKS_PER_BATCH):
        batch = keys[start : start + LOOKS_PER_BATCH]
        before = _promises_of(engine, batch)
        found = {key: _find(storage, key) for key in batch}
        after = _promises_of(engine, batch)
        for key in batch:
            now = [set(_judge(key, promises.get(key, []), found[key])) for promises in (before, after)]
            yield from sorted(suspects[key].intersection(*now), key=lambda wrong: (wrong.check, wrong.offence.id))


def _promises_of(engine: Engine, keys: Sequence[str]) -> dict[str, list[_Promise]]:
    promises: dict[str, list[_Promise]] = {}
    with engine.connect() as connection:
        for row in connection.execute(_OF_KEYS, {"keys": list(keys)}):
            promises.setdefault(row.key, []).append(_Promise(*row))
    return promises


def _find(storage: ObjectStorage, key: str) -> ObjectInfo | None:
    first = next(iter(storage.list(key)), None)  # a key comes before all that it begins
    return first if first is not None and first.key == key else None


def _stretch(after: str, until: str | None) -> dict[str, object]:
    """The statement's bounds: of each folder the ids that keys of the stretch can hold."""
    bounds: dict[str, object] = {"after": after, "until": until}
    for folder, name in (("photos/", "photo"), ("thumbnails/", "thumbnail"), ("portraits/", "portrait")):
        bounds[f"first_{name}"] = _id_in(after, folder) or UUID(int=0)
        bounds[f"last_{name}"] = (until and _id_in(until, folder)) or UUID(int=2**128 - 1)
    return bounds


def _id_in(key: str, folder: str) -> UUID | None:
    """The id that follows the folder's name. Ids are in the same order as keys and as the database's."""
    try:
        return UUID(key.removeprefix(folder)[:36]) if key.startswith(folder) else None
    except ValueError:  # not a key of ours
        return None
