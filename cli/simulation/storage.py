"""An object storage in memory, that may be away and may lose its answers."""

from collections.abc import Callable, Iterable, Iterator

from cli.simulation.clock import Clock
from cli.simulation.dice import Dice
from shared.errors import StorageUnavailable
from shared.storage import ObjectInfo, ObjectNotFound, StoredObject


class SimulatedStorage:
    def __init__(self, clock: Clock, dice: Dice, boundary: Callable[[str], None]) -> None:
        self._clock = clock
        self._dice = dice
        self._boundary = boundary
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._boundary("before the put")
        self._may_be_away()
        self.objects[key] = body
        self._boundary("after the put")
        if self._dice.strikes("storage answer lost"):
            raise StorageUnavailable(retry_after_seconds=1)

    def get(self, key: str) -> StoredObject:
        self._may_be_away()
        if key not in self.objects:
            raise ObjectNotFound(key)
        return StoredObject(self.objects[key], "image/jpeg")

    def delete(self, keys: Iterable[str]) -> None:
        self._may_be_away()
        for key in keys:
            self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[key]), self._clock.now)

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        return None

    def probe(self) -> None:
        """Nothing to try."""

    def _may_be_away(self) -> None:
        if self._dice.strikes("storage away"):
            raise StorageUnavailable(retry_after_seconds=1)
