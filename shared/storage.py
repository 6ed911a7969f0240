"""The port to where portraits and photos are kept. Objects are private; addresses to them are short-lived."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import quote
from uuid import uuid4

from shared.errors import StorageUnavailable
from shared.settings import Settings

# No part starts with a dot, so a key can neither climb out of its directory nor meet a file still being written.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,7}")

# Where everything of ours lies. Whatever else a bucket holds is somebody else's, and never deleted.
FOLDERS = ("photos/", "portraits/", "probe/", "thumbnails/")


class ObjectNotFound(Exception):
    """There is no object under this key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size_bytes: int
    modified_at: datetime  # UTC


class ObjectStorage(Protocol):
    """Keys are `/`-separated paths that we make ourselves, such as `photos/{job}/{slot}` (see `checked_key`).

    No key may be another key's directory: `photos/a` and `photos/a/0` cannot both be objects.

    Every method is thread-safe, blocks for at most a few bounded retries, and raises `StorageUnavailable`
    (shared.errors) when the storage cannot be reached or will not serve us; its cause says why. A key that breaks
    the rule is a mistake of ours and raises ValueError.
    """

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store the object, replacing one of the same key; afterwards every reader sees it whole.

        `content_type` is the one that the bytes themselves show: image/jpeg, image/png or image/webp, and
        application/octet-stream for anything else.
        """

    def get(self, key: str) -> StoredObject:
        """Read an object whole. Raises ObjectNotFound."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects, with every version that was ever kept of them; those that are gone are no error.

        StorageUnavailable means that at least one is still there; the others may be gone. Safe to repeat.
        """

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix` and comes after `after`, in the order of the keys."""

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        """An address anyone may GET for `media_url_seconds`; None where the storage has no address of its own.

        With `download_name` a browser saves the file under that name instead of showing it.
        """

    @property
    def public_origin(self) -> str | None:
        """Scheme, host and port that every `signed_url` begins with; None where there are none."""

    def probe(self) -> None:
        """Write, read and delete a small object, as `cuggu doctor` does."""


def open_storage(settings: Settings) -> ObjectStorage:
    """The adapter that the settings name."""
    if settings.storage == "s3":
        from shared.s3_storage import S3Storage  # noqa: PLC0415 - boto3 takes a second to import

        return S3Storage(settings)
    from shared.disk_storage import DiskStorage  # noqa: PLC0415

    return DiskStorage(settings.data_dir / "objects")


def checked_key(key: str) -> str:
    """The key itself: up to eight parts of letters, digits, `.`, `_` and `-`, none starting with a sign.

    Raises:
        ValueError: the key is empty, absolute, climbs with `..`, or has an empty or an over-long part.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a storage key: {key!r}")
    return key


def attachment(download_name: str) -> str:
    """The Content-Disposition that makes a browser save a file under this name, Korean names included (RFC 6266).

    The plain `filename` is for readers that know nothing else; `filename*` carries the name as it is (RFC 5987).
    """
    name = "".join(char for char in download_name if char.isprintable() and char not in '/\\"') or "photo"
    plain = "".join(char if char.isascii() else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def write_read_delete(storage: ObjectStorage) -> None:
    """What `probe` means for every adapter. Raises StorageUnavailable, also when something else comes back."""
    key, body = f"probe/{uuid4()}", b"cuggu"
    storage.put(key, body, "application/octet-stream")
    try:
        found = storage.get(key).body
    except ObjectNotFound as error:
        raise StorageUnavailable(retry_after_seconds=5) from error
    finally:
        storage.delete([key])
    if found != body:
        raise StorageUnavailable(retry_after_seconds=5)
