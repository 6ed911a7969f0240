"""Starting a vendor's double as a process of its own, for tests and for `cuggu demo --vendors`.

A double listens on a free loopback port and prints one JSON line once it does: `{"url": "http://127.0.0.1:PORT"}`.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.waiting import readable

START_SECONDS = 30.0  # a cold import on a busy machine takes a few seconds
STOP_SECONDS = 5.0


@contextmanager
def start_double(module: str, *args: str) -> Iterator[str]:
    """Run `python -m module args...`, yield the address it printed, and end it afterwards.

    The double gets a pipe as its standard input and is expected to end when that closes (`exit_with_parent`), so
    that none outlives a test run that was killed.

    Raises:
        RuntimeError: it ended, or printed no address within `START_SECONDS`; the message carries its last words.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        try:
            yield _address(process, log, module)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _address(process: subprocess.Popen[bytes], log: IO[bytes], module: str) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        # A double ends its line in one write, so a readable pipe holds the whole line or the end of the stream.
        if readable(process.stdout, 0.5):
            line = process.stdout.readline()
            if not line:
                break
            return str(json.loads(line)["url"])
    log.seek(0)
    raise RuntimeError(f"{module} did not start: {log.read().decode(errors='replace')[-2000:]}")
