"""`cuggu staff`: who may open /admin."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from shared import staff

commands = typer.Typer(help="Say who may open /admin.", no_args_is_help=True, rich_markup_mode=None)

Email = Annotated[str, typer.Argument(help="The address that they sign in with.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="staff")


@commands.command()
def add(email: Email, actor: ActorOption = None) -> None:
    """Let this person open /admin: users, balances, grants, jobs, the pause."""
    if "@" not in email:
        raise stop(f"{email!r} is not an e-mail address.", 2)
    settings = settings_here()
    with database_of(settings) as engine, Session(engine) as session, session.begin():
        added = staff.add(session, actor_of(actor), email, settings)
    typer.echo(f"{email} is staff now." if added else f"{email} was staff already.")


@commands.command()
def remove(email: Email, actor: ActorOption = None) -> None:
    """Make this person a user like any other, from their next request on."""
    with database_of(settings_here()) as engine, Session(engine) as session, session.begin():
        if not staff.remove(session, actor_of(actor), email):
            raise stop(f"{email} is not staff.")
    typer.echo(f"{email} is not staff any more.")


@commands.command("list")
def show() -> None:
    """Print who is staff, and since when."""
    with database_of(settings_here()) as engine, Session(engine) as session:
        members = staff.members(session)
    if not members:
        typer.echo("Nobody is staff. `cuggu staff add EMAIL` makes somebody so.")
        return
    table = Table("staff", "since (UTC)", "user", box=None, pad_edge=False)
    for user_id, email, since in members:
        table.add_row(email, f"{since:%Y-%m-%d %H:%M:%S}", str(user_id))
    Console(width=max(120, Console().width), markup=False).print(table)
