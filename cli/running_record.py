"""What runs on a data directory, written down: for the other commands, and for the next start after a kill."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from cli.processes import Lock, StartFailed, end_leftover

NAMES = ("DATABASE_URL", "REDIS_URL", "DATA_DIR", "PUBLIC_URL")  # of the environment, for the other commands
LEFTOVER_SECONDS = 5


def environment_of_running_stack(data_dir: Path) -> dict[str, str] | None:
    """DATABASE_URL and so on of the stack that runs on this directory; None when none does."""
    try:
        Lock(lock_path(data_dir), "running").release()
    except FileNotFoundError:
        return None
    except StartFailed:
        try:
            environment: dict[str, str] = json.loads(_path(data_dir).read_text())["environment"]
        except FileNotFoundError:  # it is just starting or stopping
            return None
        return environment
    return None


def write(data_dir: Path, environment: Mapping[str, str], children: Mapping[str, subprocess.Popen[bytes]]) -> None:
    record = {
        "environment": {name: environment[name] for name in NAMES},
        "children": {name: [child.pid, child.args] for name, child in children.items()},
    }
    draft = _path(data_dir).with_suffix(".json.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(record, file)
    draft.rename(_path(data_dir))


def forget(data_dir: Path) -> None:
    _path(data_dir).unlink(missing_ok=True)


def end_leftovers(data_dir: Path) -> Iterator[str]:
    """End what a killed run has left behind, where nothing ended its children; each is told of in a sentence."""
    path = _path(data_dir)
    if not path.exists():
        return
    for name, (pid, argv) in json.loads(path.read_text())["children"].items():
        if end_leftover(pid, signal.SIGTERM, LEFTOVER_SECONDS, *argv):
            yield f"ended {name} ({pid}), which an earlier run had left behind"
    path.unlink()


def lock_path(data_dir: Path) -> Path:
    """Whoever holds this lock is the stack that runs here."""
    return data_dir / "stack.lock"


def _path(data_dir: Path) -> Path:
    return data_dir / "running.json"
