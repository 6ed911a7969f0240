"""Files as one ZIP archive, made while it is sent: one file is in memory at a time, whatever the archive weighs."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from zipfile import ZIP_STORED, ZipFile, ZipInfo

ARCHIVED_MODE = 0o644 << 16  # a plain file, readable, in the upper half of the attributes as Unix has it


class _Sink:
    """What was written and not yet sent. It cannot be sought in, so sizes follow the files instead of leading them."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, chunk: bytes) -> int:
        self._chunks.append(bytes(chunk))
        return len(chunk)

    def flush(self) -> None:
        """Nothing to do: it is taken."""

    def take(self) -> bytes:
        taken, self._chunks = b"".join(self._chunks), []
        return taken


def zip_stream(files: Iterable[tuple[str, datetime, bytes]]) -> Iterator[bytes]:
    """The archive in pieces, one for each file of (name, time, body) and one for the end.

    Stored and not deflated: photos do not get smaller.
    """
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:  # type: ignore[call-overload] # write and flush are all it asks for
        for name, at, body in files:
            about = ZipInfo(name, at.timetuple()[:6])
            about.external_attr = ARCHIVED_MODE
            archive.writestr(about, body)
            yield sink.take()
    yield sink.take()
