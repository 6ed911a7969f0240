"""TCP wires between our processes and the servers they need, which can be cut, slowed, and made to swallow."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import uvloop

Trouble = Literal["cut", "delay", "swallow", "swallow answers"]
TROUBLES: tuple[Trouble, ...] = ("cut", "delay", "swallow", "swallow answers")

DELAY_SECONDS = 0.4  # of every piece of bytes in either direction
CHUNK_BYTES = 256 * 1024


@dataclass(eq=False)
class _Line:
    """One connection through a wire: to who called, and to the server."""

    caller: asyncio.StreamWriter
    server: asyncio.StreamWriter
    broken: bool = False  # bytes of it were swallowed, so nobody can use it any more

    def abort(self) -> None:
        self.caller.transport.abort()
        self.server.transport.abort()


class Wire:
    """Listens on a loopback port of its own and passes all on to `target`.

    Several troubles may be on it at once, and one of them twice: each `begin` asks for its `end`.

    - cut: every connection is reset, and new ones at once.
    - delay: every piece of bytes takes `DELAY_SECONDS` longer.
    - swallow: connections are accepted and stay open, and nothing comes through.
    - swallow answers: what is asked comes through, what is answered does not.

    Connections of which something was swallowed are reset when that ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.target: tuple[str, int] | None = None
        self._loop = loop
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(512)
        self.port = int(self._listener.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._troubles: Counter[Trouble] = Counter()
        self._lines: set[_Line] = set()

    def begin(self, trouble: Trouble) -> None:
        """From any other thread; it holds for all that is sent after the return."""
        asyncio.run_coroutine_threadsafe(self._begin(trouble), self._loop).result()

    def end(self, trouble: Trouble) -> None:
        asyncio.run_coroutine_threadsafe(self._end(trouble), self._loop).result()

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, sock=self._listener, limit=CHUNK_BYTES)

    def hang_up(self) -> None:
        """In the loop's thread: reset all."""
        for line in list(self._lines):
            line.abort()

    async def _begin(self, trouble: Trouble) -> None:
        self._troubles[trouble] += 1
        if trouble == "cut":
            self.hang_up()

    async def _end(self, trouble: Trouble) -> None:
        self._troubles[trouble] -= 1
        for line in [line for line in self._lines if line.broken]:
            line.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._troubles["cut"] or self.target is None:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, to_server)
        self._lines.add(line)
        try:
            await asyncio.gather(self._pump(line, reader, to_server, answers=False),
                                 self._pump(line, from_server, writer, answers=True))  # fmt: skip
        except (OSError, RuntimeError):  # the second is uvloop's, for writing to what was cut meanwhile
            pass
        finally:
            line.abort()
            self._lines.discard(line)

    async def _pump(
        self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await source.read(CHUNK_BYTES):
            if self._troubles["delay"]:
                await asyncio.sleep(DELAY_SECONDS)
            line.broken = line.broken or bool(
                self._troubles["swallow"] or (answers and self._troubles["swallow answers"])
            )
            if not line.broken:
                sink.write(data)
                await sink.drain()
        if not line.broken:
            sink.close()  # what was written goes out first; the other direction then ends as well


@contextmanager
def wires(*names: str) -> Iterator[dict[str, Wire]]:
    """Wires by name, served by a thread of their own; each passes on as soon as it has a target."""
    loop = uvloop.new_event_loop()
    made = {name: Wire(loop) for name in names}

    def run() -> None:
        asyncio.set_event_loop(loop)
        for wire in made.values():
            loop.run_until_complete(wire.serve())
        loop.run_forever()

    thread = threading.Thread(target=run, name="wires", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        for wire in made.values():
            loop.call_soon_threadsafe(wire.hang_up)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
