"""Prove that every stored photo is the file that was written, and decodes (I2): the deep look, which reads them all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Engine, text

from shared.audit_findings import Finding, Offence
from shared.photo_file import InvalidPhoto, read_photo
from shared.storage import ObjectNotFound, ObjectStorage

DECODABLE = "every stored photo is the file that was written, and decodes"

PHOTOS_PER_PAGE = 200
READERS = 4

_PAGE = text(
    "SELECT id, object_key, sha256 FROM photos WHERE object_key IS NOT NULL AND id > :after ORDER BY id LIMIT :limit"
)
_PHOTO = text("SELECT id, object_key, sha256 FROM photos WHERE object_key IS NOT NULL AND id = :id")


class _Photo(NamedTuple):
    id: UUID
    object_key: str
    sha256: str | None


def prove_photos_decode(engine: Engine, storage: ObjectStorage) -> Finding:
    """Read and decode every stored photo, page by page and without an open transaction. Raises StorageUnavailable."""

    def look(photo: _Photo) -> Offence | None:
        says = _broken(storage, photo)
        if says is None:
            return None
        with engine.connect() as connection:
            again = connection.execute(_PHOTO, {"id": photo.id}).one_or_none()
        # Deleted meanwhile, or replaced.
        if again is None or (says := _broken(storage, _Photo(*again))) is None:
            return None
        return Offence("photos", str(photo.id), f"{photo.object_key}: {says}")

    looked_at, offences = 0, list[Offence]()
    with ThreadPoolExecutor(READERS) as readers:
        for page in _pages(engine):
            looked_at += len(page)
            offences += [offence for offence in readers.map(look, page) if offence]
    return Finding("I2", DECODABLE, "photos", looked_at, tuple(offences))


def _pages(engine: Engine) -> Iterator[list[_Photo]]:
    after = UUID(int=0)
    while True:
        with engine.connect() as connection:
            rows = connection.execute(_PAGE, {"after": after, "limit": PHOTOS_PER_PAGE})
            page = [_Photo(*row) for row in rows]
        if not page:
            return
        yield page
        after = page[-1].id


def _broken(storage: ObjectStorage, photo: _Photo) -> str | None:
    """What is wrong with the photo's file; None if nothing is."""
    try:
        body = storage.get(photo.object_key).body
        read_photo(body)
    except ObjectNotFound:
        return "it is not there"
    except InvalidPhoto as error:
        return f"it does not decode: {error}"
    if photo.sha256 is not None and sha256(body).hexdigest() != photo.sha256:
        return "it is another file than the one that was written"
    return None
