"""`cuggu pause` and `cuggu resume`: no new jobs, and new jobs again. Running ones finish."""

from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from shared import spending


def register(app: typer.Typer) -> None:
    app.command()(pause)
    app.command()(resume)


def pause(
    reason: Annotated[str, typer.Option(help="Why; for staff, users are not told.")], actor: ActorOption = None
) -> None:
    """Take no new jobs: they are refused with 503 `paused` and cost nothing. Running ones finish."""
    if not reason.strip():
        raise stop("Give a reason.", 2)
    with database_of(settings_here()) as engine, Session(engine) as session, session.begin():
        begun = spending.pause(session, actor_of(actor), reason.strip())
        earlier = spending.open_pause(session)
        since = "" if earlier is None else f" since {earlier.began_at:%Y-%m-%d %H:%M:%S} UTC: {earlier.reason}"
    typer.echo("New jobs are paused. `cuggu resume` takes them again." if begun else f"They are paused{since}")


def resume(actor: ActorOption = None) -> None:
    """Take new jobs again, as far as the month's budget lets them."""
    with database_of(settings_here()) as engine, Session(engine) as session, session.begin():
        ended = spending.resume(session, actor_of(actor))
    typer.echo("New jobs are taken again." if ended else "Nothing was paused.")
