"""`cuggu storage`: where portraits and photos lie is private and encrypted, and forgets what the sweep misses."""

from pathlib import Path
from typing import Annotated

import typer

from cli.configuration import settings_here, stop
from shared.settings import Settings

commands = typer.Typer(help="Keep the storage private.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="storage")


@commands.callback()
def _storage() -> None:
    """Keeps `setup` a subcommand while it is the only one."""


@commands.command()
def setup(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; end with status 1 if something is missing.")
    ] = False,
) -> None:
    """Set the bucket to what it must be, and say what was changed; repeating it changes nothing.

    No public access, no access lists, encryption by default, the page's origin, and lifecycle rules as a second net
    under the sweep. Rules of others stay. Needs credentials that may change the bucket, which API and workers need not
    have. A directory on disk is closed to everybody else on this machine.
    """
    settings = settings_here(need_servers=False)
    missing = _disk(settings, check) if settings.storage == "disk" else _bucket(settings, check)
    if missing and check:
        raise typer.Exit(1)


def _bucket(settings: Settings, check: bool) -> bool:
    from cli.bucket_rules import BucketRefuses, RuleState, bucket_rules  # noqa: PLC0415 - boto3 is slow to import

    missing = False
    for rule in bucket_rules(settings):
        try:
            state = rule.state()
            if state is RuleState.BROKEN and not check:
                rule.mend()
        except BucketRefuses as error:
            raise stop(f"The bucket {settings.s3_bucket_name} refuses: {error.args[0]}: {error.args[1]}.") from None
        missing = missing or state is RuleState.BROKEN
        changed = "set" if state is RuleState.BROKEN and not check else state.value
        typer.echo(f"{changed:<8} {rule.name}: {rule.says}")
    return missing


def _disk(settings: Settings, check: bool) -> bool:
    root = settings.data_dir / "objects"
    missing = is_open(root)
    if missing and not check:
        root.chmod(0o700)
    state = ("missing" if check else "set") if missing else "ok"
    typer.echo(f"{state:<8} {root}: only this user may look into it (mode 0700)")
    typer.echo("The disk itself is not encrypted by this command, and keeps no versions.")
    return missing


def is_open(root: Path) -> bool:
    """Whether others on this machine may look into the directory; one that is not there yet is made closed."""
    return root.is_dir() and root.stat().st_mode & 0o077 != 0
