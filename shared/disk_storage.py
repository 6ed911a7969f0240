"""Objects as files under one directory: the storage of the embedded stack."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from shared.errors import StorageUnavailable
from shared.storage import ObjectInfo, ObjectNotFound, StoredObject, checked_key, write_read_delete

RETRY_AFTER_SECONDS = 5
# A write takes milliseconds. What is older than this was left by a process that died, and may hold a portrait.
INTERRUPTED_AFTER_SECONDS = 3600
PUT_TRIES = 20

_SIGNATURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class DiskStorage:
    """ObjectStorage in a directory that only this user can read.

    The file is the object's bytes and nothing else, so that a picture viewer can open it; its content type is told
    from its first bytes. A put is durable when it returns: written aside, synced, renamed, directories synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._incoming = self._root / ".incoming"
        self._forget_interrupted_writes()

    def put(self, key: str, body: bytes, content_type: str) -> None:
        path = self._path(key)
        with _refused_when_the_disk_fails():
            # Each by itself: parents are made with everybody's rights.
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._incoming, delete=False) as file:
                written = Path(file.name)
                try:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                    self._move_into_place(written, path)
                except BaseException:
                    written.unlink(missing_ok=True)
                    raise
            for directory in path.parents:
                _sync_directory(directory)
                if directory == self._root:
                    break

    def get(self, key: str) -> StoredObject:
        path = self._path(key)
        with _refused_when_the_disk_fails():
            try:
                body = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise ObjectNotFound(key) from error
        return StoredObject(body, _content_type(body))

    def delete(self, keys: Iterable[str]) -> None:
        for path in [self._path(key) for key in keys]:
            with _refused_when_the_disk_fails():
                if path.is_dir():
                    continue
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
            for directory in path.parents:
                if directory == self._root:
                    break
                try:
                    directory.rmdir()
                except OSError:  # not empty, or gone already
                    break

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        walk = self._walk(self._root, "", prefix, after)
        while True:
            with _refused_when_the_disk_fails():
                found = next(walk, None)
            if found is None:
                return
            yield found

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        checked_key(key)
        return None

    @property
    def public_origin(self) -> str | None:
        return None

    def probe(self) -> None:
        write_read_delete(self)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _move_into_place(self, written: Path, path: Path) -> None:
        for tries_left in reversed(range(PUT_TRIES)):
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                written.replace(path)
            except (FileNotFoundError, FileExistsError):
                # A delete beside us has just removed an empty directory: before the move, or (FileExistsError)
                # between mkdir's refusal and pathlib's look at what was in its way.
                if not tries_left:
                    raise
            else:
                return

    def _walk(self, directory: Path, inside: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """In the order of keys, one directory's names in memory at a time; what cannot hold such keys is not entered.

        `inside` is what the keys in this directory begin with. A directory's place is that of its keys: with a slash.
        """
        for name, is_directory in _names(directory):
            key = inside + name
            if is_directory:
                wanted = key.startswith(prefix) or prefix.startswith(key)
                if wanted and (key > after or after.startswith(key)):
                    yield from self._walk(directory / name, key, prefix, after)
            elif key.startswith(prefix) and key > after:
                with suppress(FileNotFoundError):
                    stat = (directory / name).stat()
                    yield ObjectInfo(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def _forget_interrupted_writes(self) -> None:
        with _refused_when_the_disk_fails():
            for path in self._incoming.glob("*"):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > INTERRUPTED_AFTER_SECONDS:
                        path.unlink()


@contextmanager
def _refused_when_the_disk_fails() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error


def _content_type(body: bytes) -> str:
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if body.startswith(signature)), "application/octet-stream")


def _sync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:  # the object was deleted in the meantime, and its directory with it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(directory: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a directory, whose name then ends with a slash), in order; nothing that is hidden."""
    try:
        with os.scandir(directory) as entries:
            shown = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:  # nothing was ever put, or it was deleted in the meantime
        return []
    return sorted((name + "/" if is_directory else name, is_directory) for name, is_directory in shown)
