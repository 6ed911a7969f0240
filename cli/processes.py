"""Child processes that never outlive us, and the locks that say who runs what."""

import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StartFailed(Exception):
    """Something could not be started; the text is one or two sentences for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system account that a child runs as, when it is not our own."""

    uid: int
    gid: int


def start_child(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    account: Account | None = None,
    when_we_die: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a child that appends its output to `log` and leads its own session.

    Its own session keeps a Ctrl-C at the terminal for us alone, so that we end the children in our order.
    On Linux the kernel sends the child `when_we_die` should we be killed. macOS has no such thing: there the next
    start finds the leftovers by what the last one wrote down (`postmaster.pid`, `valkey.pid`, `running.json`).

    Must be called from the main thread: Linux ties the signal to the life of the thread that forks.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children must be started from the main thread")
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(when_we_die),  # noqa: PLW1509 - it makes one system call and takes no lock
        )


def _die_with_parent(when_we_die: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec. Everything it needs is made here, before the fork."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def follow() -> None:
        # Python has changed the account by now; a later change would make the kernel forget the signal.
        prctl(PR_SET_PDEATHSIG, int(when_we_die), 0, 0, 0)
        if os.getppid() != parent:  # we died between the fork and the call above
            os._exit(1)

    return follow


def end_child(
    process: subprocess.Popen[bytes],
    ask: signal.Signals,
    timeout_seconds: float,
    hurry: threading.Event | None = None,
) -> bool:
    """Ask the child to end, and kill it after the timeout or as soon as `hurry` is set. True if it ended by itself."""
    if process.poll() is None:
        process.send_signal(ask)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and not (hurry and hurry.is_set()):
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return True
        process.kill()
        process.wait()
        return False
    return True


def end_leftover(pid: int, ask: signal.Signals, timeout_seconds: float, *words: str, born: float | None = None) -> bool:
    """End a process that an earlier run left behind. True if there was one.

    A number may have been given to somebody else since: the process is ours only if every one of `words` is in
    its command line and, where it is known, it was `born` (seconds since the epoch) at the same moment.
    """
    import psutil  # noqa: PLC0415 - comes with the embedded servers; a production install has none

    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())
        if not all(word in command for word in words) or (born and abs(process.create_time() - born) > 1):
            return False
        process.send_signal(ask)
        try:
            process.wait(timeout_seconds)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout_seconds)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return True


class Lock:
    """An exclusive lock that lasts as long as this process or until `release`; the kernel frees it if we are killed."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock. Raises StartFailed with `refusal` while somebody else has it."""
        self._file: IO[bytes] = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StartFailed(refusal) from None

    def release(self) -> None:
        self._file.close()


def make_data_dir(data_dir: Path) -> None:
    """Make the directory and its `logs`. Others may pass through the first, as PostgreSQL's account must, not look."""
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711)
    (data_dir / "logs").mkdir(mode=0o700, exist_ok=True)


def free_port() -> int:
    """A loopback port that is free now, below the ranges from which systems take ports for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        if listen_error("127.0.0.1", port) is None:
            return port


def listen_error(host: str, port: int) -> OSError | None:
    """Why nobody could listen there now; None when one can."""
    with socket.socket() as probe:
        # As servers do it: a port in TIME_WAIT after the last run counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
        return None


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
