"""`cuggu account`: what a person asks of us by letter instead of on the page."""

from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from shared import deletion, staff_actions
from shared.former_addresses import address_key
from shared.models import User

commands = typer.Typer(help="Delete an account at its user's wish.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="account")


@commands.command()
def delete(
    user: Annotated[str, typer.Argument(help="The user's address or id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: ActorOption = None,
) -> None:
    """Delete a user's account for good, as `DELETE /me` does: every job and picture. The ledger stays, nameless."""
    settings = settings_here()
    with database_of(settings) as engine:
        with Session(engine) as session:
            found = session.execute(_present(user)).one_or_none()
        if found is None:
            raise stop(f"There is no user {user}.")
        if not yes:
            typer.confirm(f"Delete {found.email} with all pictures and {found.credits} credits?", abort=True, err=True)
        with Session(engine) as session, session.begin():
            deletion_id = deletion.leave(session, found.id, address_key(settings))
            staff_actions.record(session, actor_of(actor), "account.deleted", user_id=found.id)
    typer.echo(f"Nobody can sign in to it any more. Workers delete its jobs and pictures now: deletion {deletion_id}.")


def _present(user: str) -> Select[UUID, str, int]:
    try:
        named = User.id == UUID(user)
    except ValueError:
        named = User.email == user.strip().lower()
    return select(User.id, User.email, User.credits).where(named, User.deleted_at.is_(None))
