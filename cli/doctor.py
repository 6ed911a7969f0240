"""`cuggu doctor`: is every part configured, and does it work right now?"""

import json as jsons
from typing import Annotated

import typer

from cli.configuration import SettingsWrong, environment_here, settings_of
from cli.examination import Finding, examine
from cli.examinations import EXAMINATIONS
from cli.unlogged import unlogged


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Try every part for real, and say in a line what is wrong with it and what to do.

    Looks at the parts that the environment and .env name or, where they name no servers, at those of a `cuggu serve`
    that runs here: database and its migrations, Redis, storage, faces, generator, webhook address, the site's own.
    Each is given ten seconds. Ends with status 1 if something is wrong. Never prints secrets.
    """
    with unlogged():
        findings = _examine()
    wrong = any(not finding.ok for finding in findings)
    if json:
        parts = [
            {"part": found.part, "ok": found.ok, "configured": found.configured, "says": found.says, "do": found.do}
            for found in findings
        ]
        typer.echo(jsons.dumps({"ok": not wrong, "parts": parts}, ensure_ascii=False, indent=2))
    else:
        for found in findings:
            typer.echo(_line(found))
    if wrong:
        raise typer.Exit(1)


def _examine() -> list[Finding]:
    environment = environment_here()
    absent = [name for name in ("DATABASE_URL", "REDIS_URL") if not environment.get(name)]
    # The other parts can be tried without these two.
    placeholders = {"DATABASE_URL": "postgresql://absent", "REDIS_URL": "redis://absent"}
    try:
        settings = settings_of({**placeholders, **environment})
    except SettingsWrong as error:
        return [Finding("settings", False, "environment and .env", str(error), "correct them, and ask again")]
    return examine(settings, EXAMINATIONS, absent)


def _line(found: Finding) -> str:
    mark = "ok   " if found.ok else "WRONG"
    todo = f" To do: {found.do}." if found.do else ""
    return f"{mark}  {found.part:<10} {found.configured}: {found.says}.{todo}"
