"""`cuggu credits`: what ops do with balances, over the same functions as the API and the workers."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from shared import credits, granting
from shared.errors import GrantConflict
from shared.former_addresses import address_key
from shared.models import User

commands = typer.Typer(help="Grant credits, and see where they went.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="credits")


@commands.command()
def grant(
    email: Annotated[str, typer.Argument(help="The user; made, with the sign-up credits, if we never saw them.")],
    amount: Annotated[int, typer.Argument(min=1, help="How many credits.")],
    reference: Annotated[str, typer.Option(help="Payment number or reason. The same reference grants once.")],
    actor: ActorOption = None,
) -> None:
    """Add credits to a user's balance. Repeating a command with the same reference adds nothing."""
    settings = settings_here()
    with database_of(settings) as engine, Session(engine) as session, session.begin():
        user_id = credits.provision_user(session, email, settings.signup_credits, address_key=address_key(settings))
        try:
            balance, granted = granting.grant(session, actor_of(actor), user_id, amount, reference)
        except GrantConflict:
            raise stop(f"Nothing was granted: reference {reference} has granted something else before.") from None
    if granted:
        typer.echo(f"Granted {amount} to {email}; the balance is {balance}.")
    else:
        typer.echo(f"Reference {reference} had been granted before; nothing was added. The balance is {balance}.")


@commands.command()
def show(
    email: Annotated[str, typer.Argument(help="The user.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries, newest first.")] = 100,
) -> None:
    """Print a user's balance and the ledger that makes it up."""
    with database_of(settings_here()) as engine, Session(engine) as session:
        user = session.scalar(select(User).where(User.email == email.strip().lower()))
        if user is None:
            raise stop(f"There is no user {email}.")
        entries = credits.ledger(session, user.id, limit)
        balance = user.credits
    table = Table("when (UTC)", "what", "credits", "balance", "job or reference", box=None, pad_edge=False)
    for entry in entries:
        table.add_row(
            f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
            entry.kind.value,
            f"{entry.amount:+d}",
            str(entry.balance_after),
            str(entry.job_id or entry.reference or ""),
        )
    typer.echo(f"{email}: {balance} credits")
    Console(width=max(100, Console().width)).print(table)
