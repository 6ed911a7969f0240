"""Printing log files as they grow, each line behind the name of its process.

The children write into files rather than into pipes, so that no stalled terminal can stall them, and so that what
they said survives us.
"""

import sys
import threading
from pathlib import Path

POLL_SECONDS = 0.15
COLOURS = (36, 33, 35, 32, 34, 31)  # ANSI foreground colours, one per process in turn


class LogFollower:
    """Follows every `*.log` in a directory, those that appear later too, from the first line on."""

    def __init__(self, directory: Path, *, skip: tuple[str, ...] = ("postgres", "redis")) -> None:
        self._directory = directory
        self._skip = skip
        self._read: dict[Path, int] = {}  # bytes printed so far
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Print what is still unprinted, and end."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._print_news()
        self._print_news()

    def _print_news(self) -> None:
        for path in sorted(self._directory.glob("*.log")):
            if path.stem in self._skip:
                continue
            with path.open("rb") as log:
                log.seek(self._read.setdefault(path, 0))
                news = log.read()
            whole = news[: news.rfind(b"\n") + 1]  # a line that is still being written waits
            self._read[path] += len(whole)
            label = f"{path.stem:<8} | "
            if sys.stdout.isatty():
                label = f"\x1b[{COLOURS[list(self._read).index(path) % len(COLOURS)]}m{label}\x1b[0m"
            for line in whole.decode(errors="replace").splitlines():
                sys.stdout.write(f"{label}{line}\n")
        sys.stdout.flush()
