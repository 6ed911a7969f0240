"""`cuggu credits`: what ops do with balances, over the same functions as the API and the workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from cli.configuration import settings_here, stop
from shared import credits
from shared.database import make_engine
from shared.models import User
from shared.settings import Settings

commands = typer.Typer(help="Grant credits, and see where they went.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="credits")


@commands.command()
def grant(
    email: Annotated[str, typer.Argument(help="The user; made, with the sign-up credits, if we never saw them.")],
    amount: Annotated[int, typer.Argument(min=1, help="How many credits.")],
    reference: Annotated[str, typer.Option(help="Payment number or reason. The same reference grants once.")],
) -> None:
    """Add credits to a user's balance. Repeating a command with the same reference adds nothing."""
    settings = settings_here()
    with _session(settings) as session, session.begin():
        user_id = credits.provision_user(session, email, settings.signup_credits)
        try:
            balance, granted = credits.grant(session, user_id, amount, reference)
        except ValueError as error:
            raise stop(f"Nothing was granted: {error}.") from None
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
    with _session(settings_here()) as session:
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


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    engine = make_engine(settings.database_url, pool_size=1)
    try:
        with Session(engine) as session:
            yield session
    except OperationalError as error:
        raise stop(f"The database does not answer: {str(error.orig).splitlines()[0]}") from None
    except ProgrammingError as error:
        raise stop(
            f"The database is not as it should be; `cuggu doctor` says more. {str(error.orig).splitlines()[0]}"
        ) from None
    finally:
        engine.dispose()
