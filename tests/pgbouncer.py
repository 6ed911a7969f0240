"""A PgBouncer in transaction mode before a test's own database: the system's, or one that is fetched now, or a loud
failure."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cli.processes import end_child, free_port, start_child, tail
from tests.browser import run_installer
from tests.servers import locked
from tests.waiting import wait_until

START_SECONDS = 20


class NoPooler(Exception):
    """There is no PgBouncer, and none could be fetched."""


@contextmanager
def pooler(database_url: str, folder: Path, lock: Path, *, server_connections: int) -> Iterator[str]:
    """The address that leads through it. `folder` must be open to others; of several processes one installs it."""
    with locked(lock):
        program, libraries = _find(lock.parent / "pgbouncer")
    parts, port = urlsplit(database_url), free_port()
    name = parts.path.lstrip("/")
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{name} = host={parts.hostname} port={parts.port} user={parts.username} "
        f"password={parts.password}\n"
        "[pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nmax_client_conn = 500\ndefault_pool_size = {server_connections}\n"
    )
    log = folder / "pgbouncer.log"
    # It refuses to run as root.
    argv = [program, *(("-u", "nobody") if os.geteuid() == 0 else ()), str(folder / "pgbouncer.ini")]
    process = start_child(argv, log=log, env={**os.environ, "LD_LIBRARY_PATH": libraries})
    try:
        wait_until(lambda: _listens(port) or process.poll() is not None, START_SECONDS)
        if not _listens(port):
            raise NoPooler(f"PgBouncer did not start:\n{tail(log)}")
        yield f"postgresql://{parts.username}@127.0.0.1:{port}/{name}"
    finally:
        end_child(process, 15, 5)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _find(folder: Path) -> tuple[str, str]:
    """The program, and the folders of its libraries where the system does not know them. Raises NoPooler."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    tried = ["looked for pgbouncer"]
    if not shutil.which("pgbouncer", path=search) and shutil.which("apt-get"):
        if os.geteuid() == 0:
            tried.append(run_installer("apt-get", "update"))
            tried.append(run_installer("apt-get", "install", "--yes", "--no-install-recommends", "pgbouncer"))
        else:
            tried.append(_unpack(folder))
    if found := shutil.which("pgbouncer", path=f"{search}{os.pathsep}{folder / 'usr/sbin'}"):
        return found, os.pathsep.join(str(path) for path in folder.glob("**/lib/*-linux-gnu"))
    raise NoPooler("The test of connection pooling needs PgBouncer. Install it. Tried:\n" + "\n".join(tried))


def _unpack(folder: Path) -> str:
    """Fetch the package and the libraries that it names, and unpack them without installing anything."""
    folder.mkdir(exist_ok=True)
    named = subprocess.run(
        ["apt-cache", "depends", "--important", "pgbouncer"], capture_output=True, text=True, check=False
    )
    libraries = set(re.findall(r"Depends: (lib[\w.+-]+)", named.stdout)) - {"libc6"}
    tried = run_installer("apt-get", "download", "pgbouncer", *sorted(libraries), folder=folder)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return tried
