"""A real process that does one step in a world, and that is killed (SIGKILL) at a boundary.

Forked from a server that has imported everything already, because a fresh Python would spend two seconds on that.
Connections and threads are made after the fork only.
"""

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection

from shared.settings import Settings

LIFE_SECONDS = 60

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.crash_world", "pytest"])


@dataclass(frozen=True)
class Life:
    """The boundaries that the process passed; when it was killed, it died on the last of them."""

    passed: tuple[str, ...]
    killed: bool


def live(settings: Settings, step: str, *words: str, deadly: int | None = None) -> Life:
    """Call this method of the world of these settings in a process that dies at boundary number `deadly`.

    A step with fewer boundaries comes to its end. Raises AssertionError when it failed by itself.
    """
    receiver, sender = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_live, args=(sender, settings, step, words, deadly))
    process.start()
    sender.close()
    passed = []
    try:
        while receiver.poll(LIFE_SECONDS):
            passed.append(receiver.recv())
    except EOFError:
        process.join(LIFE_SECONDS)
    finally:
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"it failed by itself after {passed}"
    return Life(tuple(passed), process.exitcode != 0)


def _live(sender: Connection, settings: Settings, step: str, words: tuple[str, ...], deadly: int | None) -> None:
    from tests.boundaries import Boundaries
    from tests.crash_world import World

    getattr(World(settings, Boundaries(sender.send, deadly)), step)(*words)
