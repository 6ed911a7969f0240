"""`cuggu audit`: are the promises kept, over everything that is written down?"""

import json as jsons
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Engine

from cli.configuration import settings_here, stop
from cli.database import database_of
from cli.mend import differences, lost, unknown
from cli.mend import mend as mend_all
from shared.audit import Audit
from shared.audit import audit as look_at_everything
from shared.audit_findings import Finding
from shared.errors import StorageUnavailable
from shared.storage import ObjectStorage, open_storage


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    deep: Annotated[bool, typer.Option("--deep", help="Also read and decode every stored photo.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="First bring rows and storage together. After a restore, all else stopped.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --mend: do not ask.")] = False,
) -> None:
    """Prove the promises about credits, jobs, photos and files over all rows and objects; name all that offends.

    Without --mend it changes nothing, and can run beside everything else. Ends with status 1 if something offends, or
    if something could not be looked at.
    """
    settings = settings_here()
    with database_of(settings) as engine:
        try:
            storage = open_storage(settings)
        except StorageUnavailable as error:
            raise stop(f"The storage does not answer: {type(error.__cause__ or error).__name__}") from None
        if mend:
            _mend(engine, storage, yes=yes)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
            checks = bars.add_task("checks of rows", total=None)
            audited = look_at_everything(
                engine,
                storage,
                deep=deep,
                on_check=lambda done, of: bars.update(checks, completed=done, total=of, visible=done < of),
            )
    if json:
        typer.echo(jsons.dumps(_as_json(audited, deep), ensure_ascii=False, indent=2))
    else:
        _show(audited)
    if not audited.proved:
        raise typer.Exit(1)


def _mend(engine: Engine, storage: ObjectStorage, *, yes: bool) -> None:
    try:
        stretches = differences(engine, storage)
    except StorageUnavailable as error:
        raise stop(f"The storage does not answer: {type(error.__cause__ or error).__name__}") from None
    found = f"{unknown(stretches):,} objects are named by no row; {lost(stretches):,} that rows name are not there."
    typer.echo(found, err=True)
    if not yes and (unknown(stretches) or lost(stretches)):
        question = "Delete the first, and let the rows give up the second? Nothing else may run now."
        typer.confirm(question, abort=True, err=True)
    written_off = mend_all(engine, stretches)
    typer.echo(f"{written_off:,} rows gave up their object; the sweep deletes the rest once workers run.", err=True)


def _as_json(audited: Audit, deep: bool) -> dict[str, object]:
    checks = [asdict(finding) | {"proved": finding.proved} for finding in audited.findings]
    return {"proved": audited.proved, "deep": deep, "lost": audited.lost, "checks": checks}


def _show(audited: Audit) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "promise", "what must hold"):
        table.add_column(title, no_wrap=True)
    for title in ("looked at", "offending"):
        table.add_column(title, justify="right", no_wrap=True)
    for finding in audited.findings:
        mark = "ok" if finding.proved else "WRONG" if finding.offences else "UNPROVED"
        looked_at = f"{finding.looked_at:,} {finding.table}"
        offending = "?" if finding.unproved else f"{len(finding.offences):,}"
        table.add_row(mark, finding.promise, finding.says, looked_at, offending)
    Console(width=max(140, Console().width), highlight=False).print(table)
    for finding in audited.findings:
        _show_offences(finding)
    if any(finding.offences and finding.promise == "I6" for finding in audited.findings):
        typer.echo("\nThe sweep mends such accidents by itself. After a restore: `cuggu audit --mend`.")
    if audited.lost:
        typer.echo(f"\n{audited.lost:,} objects were lost and written off; `cuggu jobs show` tells of each.")


def _show_offences(finding: Finding) -> None:
    if finding.unproved is not None:
        typer.echo(f"\n{finding.promise} is not proved: {finding.unproved}.")
    if finding.offences:
        typer.echo(f"\n{finding.promise}, {finding.says}. But:")
    for offence in finding.offences:
        typer.echo(f"  {offence.table} {offence.id}: {offence.says}")
