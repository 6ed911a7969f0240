"""The port to where portraits and photos are kept. Objects are private; addresses to them are short-lived."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.settings import Settings


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
    modified_at: datetime


class ObjectStorage(Protocol):
    """Keys are `/`-separated paths that we make ourselves, such as `photos/{job}/{slot}`.

    Every method is thread-safe, blocks for at most a few bounded retries, and raises `StorageUnavailable`
    (shared.errors) when the storage cannot be reached or will not serve us.
    """

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store the object, replacing one of the same key; afterwards every reader sees it whole."""

    def get(self, key: str) -> StoredObject:
        """Read an object whole. Raises ObjectNotFound."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; those that are gone already are no error."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in the order of the keys."""

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        """An address anyone may GET for `media_url_seconds`; None where the storage has no address of its own.

        With `download_name` a browser saves the file under that name instead of showing it.
        """

    def probe(self) -> None:
        """Write, read and delete a small object, as `cuggu doctor` does."""


def open_storage(settings: Settings) -> ObjectStorage:
    """The adapter that the settings name."""
    if settings.storage == "s3":
        from shared.s3_storage import S3Storage  # noqa: PLC0415 - boto3 takes a second to import

        return S3Storage(settings)
    from shared.disk_storage import DiskStorage  # noqa: PLC0415

    return DiskStorage(settings.data_dir / "objects")
