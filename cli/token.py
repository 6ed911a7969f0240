"""`cuggu token`: sign in to a development server as anyone."""

from typing import Annotated

import typer

from cli.configuration import settings_here, stop


def register(app: typer.Typer) -> None:
    app.command()(token)


def token(email: Annotated[str, typer.Argument(help="Who to be.")]) -> None:
    """Print a bearer token for a development server on this machine; valid for a day.

    With AUTH_MODE=jwt tokens come from the site that signs them, and this command refuses.
    """
    from api.auth import development_token  # noqa: PLC0415

    settings = settings_here(need_servers=False)
    if settings.auth_mode != "development":
        raise stop("AUTH_MODE=jwt: tokens come from the site that signs them, not from here.")
    if "@" not in email:
        raise stop(f"{email!r} is not an e-mail address.", 2)
    typer.echo(development_token(settings, email))
