"""An object storage in memory, that may be away, slow, or lose its answers."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from shared.errors import StorageUnavailable
from shared.storage import ObjectInfo, ObjectNotFound, StoredObject

if TYPE_CHECKING:
    from cli.simulation.world import World


class SimulatedStorage:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._dice = world.dice
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._world.boundary()
        self._may_be_away()
        self.objects[key] = body
        self._world.boundary()
        self._may_not_answer()

    def get(self, key: str) -> StoredObject:
        self._may_be_away()
        if self._dice.strikes("portrait is slow"):
            self._world.wait(self._dice.chance.uniform(5, 40))
        if key not in self.objects:
            raise ObjectNotFound(key)
        return StoredObject(self.objects[key], "image/jpeg")

    def delete(self, keys: Iterable[str]) -> None:
        self._may_be_away()
        for key in keys:
            self.objects.pop(key, None)
            self._world.boundary()
            self._may_not_answer()

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(self.objects[key]), self._world.clock.now)

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        return None

    @property
    def public_origin(self) -> str | None:
        return None

    def probe(self) -> None:
        """Nothing to try."""

    def _may_be_away(self) -> None:
        if self._dice.strikes("storage away"):
            raise StorageUnavailable(retry_after_seconds=1)

    def _may_not_answer(self) -> None:
        if self._dice.strikes("storage answer lost"):
            raise StorageUnavailable(retry_after_seconds=1)
