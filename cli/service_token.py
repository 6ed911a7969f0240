"""`cuggu service-token`: the right of another system, such as the shop, to call us."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from shared import service_tokens
from shared.staff_models import Scope, ServiceToken

commands = typer.Typer(
    help="Make and revoke tokens for other systems, such as the shop.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="What you know it by, such as shop-2026-11.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="service-token")


@commands.command()
def create(
    name: Name,
    scope: Annotated[Scope, typer.Option(help="What it is good for: grants, for POST /credits/grants.")] = Scope.GRANTS,
    days: Annotated[int | None, typer.Option(min=1, help="It ends by itself after these; else when revoked.")] = None,
    actor: ActorOption = None,
) -> None:
    """Print a new token, once: nobody can be told it again. Several work at a time, so that one can follow another."""
    if not name.strip():
        raise stop("Give a name.", 2)
    with database_of(settings_here()) as engine, Session(engine) as session, session.begin():
        try:
            token = service_tokens.create(session, actor_of(actor), name.strip(), scope, days)
        except service_tokens.NameTaken:
            raise stop(f"There is a token {name} already. Revoke it, or take another name.") from None
    typer.echo("Keep it: it is shown this once, and only its hash is stored.", err=True)
    typer.echo(token)


@commands.command()
def revoke(name: Name, actor: ActorOption = None) -> None:
    """End a token now."""
    with database_of(settings_here()) as engine, Session(engine) as session, session.begin():
        if not service_tokens.revoke(session, actor_of(actor), name.strip()):
            raise stop(f"There is no token {name} that could be revoked.")
    typer.echo(f"Token {name} is revoked.")


@commands.command("list")
def show() -> None:
    """Print the tokens that there are and were; none of them as it is."""
    with database_of(settings_here()) as engine, Session(engine) as session:
        tokens = service_tokens.known(session)
    table = Table("name", "scope", "works", "made (UTC)", "ends (UTC)", "last used (UTC)", box=None, pad_edge=False)
    for token in tokens:
        times = (token.created_at, token.expires_at, token.last_used_at)
        table.add_row(token.name, token.scope, _state(token), *(_time(at) for at in times))
    Console(width=max(120, Console().width), markup=False).print(table)


def _state(token: ServiceToken) -> str:
    if token.revoked_at is not None:
        return f"revoked {_time(token.revoked_at)}"
    if token.expires_at is not None and token.expires_at <= datetime.now(UTC):
        return "expired"
    return "yes"


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
