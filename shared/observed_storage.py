"""Any storage, with every call to it timed and traced."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from shared.errors import StorageUnavailable
from shared.metrics import STORAGE_CALLS
from shared.storage import ObjectInfo, ObjectNotFound, ObjectStorage, StoredObject
from shared.tracing import span


class ObservedStorage:
    """The `ObjectStorage` around another one. Making an address is no call, and a listing is nobody's waiting."""

    def __init__(self, storage: ObjectStorage, adapter: str) -> None:
        """`adapter` is the setting's word: `disk` or `s3`."""
        self._storage = storage
        self._adapter = adapter

    def put(self, key: str, body: bytes, content_type: str) -> None:
        with self._call("put", key):
            self._storage.put(key, body, content_type)

    def get(self, key: str) -> StoredObject:
        with self._call("get", key):
            return self._storage.get(key)

    def delete(self, keys: Iterable[str]) -> None:
        with self._call("delete"):
            self._storage.delete(keys)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._storage.list(prefix, after)

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        return self._storage.signed_url(key, download_name=download_name)

    @property
    def public_origin(self) -> str | None:
        return self._storage.public_origin

    def probe(self) -> None:
        self._storage.probe()

    @contextmanager
    def _call(self, name: str, key: str | None = None) -> Iterator[None]:
        outcome, began = "crashed", time.perf_counter()
        try:
            # The first part of a key says what it is; the rest is the unguessable half of an address.
            kind = None if key is None else key.partition("/")[0]
            with span(f"storage.{name}", "client", cuggu__storage=self._adapter, cuggu__objects=kind):
                yield
            outcome = "ok"
        except ObjectNotFound:
            outcome = "missing"
            raise
        except StorageUnavailable:
            outcome = "unavailable"
            raise
        finally:
            STORAGE_CALLS.labels(self._adapter, name, outcome).observe(time.perf_counter() - began)
