"""One PostgreSQL and one Valkey for a whole test run; whichever test needs them first has them started.

They belong to a process of their own, because the pytest-xdist worker that asks first may end first. That process
lives as long as anybody in the run holds `users.lock`, which the kernel releases for those who are killed, too.
"""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.waiting import wait_until

TEMPLATE = "cuggu_template"
REDIS_DATABASES = 4096
START_SECONDS = 90


@dataclass(frozen=True)
class Servers:
    admin_url: str  # to the database `postgres`
    redis_url: str  # to database 0, which only hands out the numbers of the others

    def database_url(self, name: str) -> str:
        return self.admin_url.rsplit("/", 1)[0] + f"/{name}"

    def redis_url_of(self, number: int) -> str:
        return self.redis_url.rsplit("/", 1)[0] + f"/{number}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def join_run(run_dir: Path) -> IO[bytes]:
    """Say that a process of the run is there, until it closes the file or dies."""
    users = (run_dir / "users.lock").open("ab")
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def running_servers(run_dir: Path) -> Servers:
    """The servers of this run; the first caller starts them."""
    address = run_dir / "servers.json"
    with locked(run_dir / "start.lock"):
        if not address.exists():
            log = run_dir / "servers.log"
            with log.open("ab") as output:
                owner = subprocess.Popen(
                    [sys.executable, "-m", "tests.servers", str(run_dir)],
                    cwd=Path(__file__).parents[1],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # a Ctrl-C is for pytest; this ends when pytest has ended
                )
            with suppress(AssertionError):
                wait_until(lambda: address.exists() or owner.poll() is not None, START_SECONDS)
            if not address.exists():
                raise RuntimeError(f"the servers of the tests did not start:\n{log.read_text()}")
    return Servers(**json.loads(address.read_text()))


def leave_run(run_dir: Path, users: IO[bytes]) -> None:
    """End the run: wait (bounded) until the servers have ended, and remove what they left."""
    users.close()
    with (run_dir / "owner.lock").open("ab") as owner:

        def has_ended() -> bool:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        with suppress(AssertionError):  # whatever is left is removed all the same
            wait_until(has_ended, 60)
    shutil.rmtree(run_dir, ignore_errors=True)


def own_servers(run_dir: Path) -> None:
    """What the owning process does, from start to end."""
    with (run_dir / "owner.lock").open("ab") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        with (
            EmbeddedPostgres(run_dir, durable=False) as postgres,
            EmbeddedRedis(run_dir, durable=False, databases=REDIS_DATABASES) as valkey,
        ):
            draft = run_dir / "servers.draft"
            draft.write_text(json.dumps(asdict(Servers(postgres.url_for("postgres"), valkey.url))))
            draft.rename(run_dir / "servers.json")
            with locked(run_dir / "users.lock"):  # comes when the last one has left
                pass
            postgres.discard()
        shutil.rmtree(run_dir, ignore_errors=True)


if __name__ == "__main__":
    own_servers(Path(sys.argv[1]))
