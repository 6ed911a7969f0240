"""`cuggu watch`: follow a job of a running server until it has ended."""

from typing import Annotated, Literal
from uuid import UUID

import typer
from rich.console import Console

from cli.client import ApiProblem, Client, Unreachable
from cli.configuration import default_language, stop
from cli.generate import DEFAULT_EMAIL, DEFAULT_SERVER, INTERRUPTED, explain, explain_end, own_token
from cli.job_display import JobDisplay
from shared.states import JobStatus


def register(app: typer.Typer) -> None:
    app.command()(watch)


def watch(
    job_id: Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.")],
    server: Annotated[str, typer.Option(help="Address of the API.")] = DEFAULT_SERVER,
    token: Annotated[
        str | None, typer.Option(envvar="CUGGU_TOKEN", help="Bearer token. Without one, --email is used.")
    ] = None,
    email: Annotated[
        str, typer.Option(help="Who to be at a development server on this machine, when no token is given.")
    ] = DEFAULT_EMAIL,
    language: Annotated[
        Literal["ko", "en"] | None, typer.Option(help="Language of the API's sentences.", show_default="by LANG")
    ] = None,
) -> None:
    """Follow a job of yours as it happens. Ends with status 1 when not all four photos could be made."""
    display = JobDisplay(Console(stderr=True))
    try:
        client = Client(
            server, token or own_token(server, email), language=language or default_language(), on_lost=display.say
        )
    except ValueError as error:
        raise stop(str(error), 2) from None
    with client, display:
        try:
            for job in client.watch(client.job(job_id)):
                display.show(job)
        except ApiProblem as problem:
            raise stop(explain(problem)) from None
        except Unreachable as error:
            raise stop(f"{client.server} does not answer ({error}).") from None
        except KeyboardInterrupt:
            raise stop("Stopped watching; the job goes on.", INTERRUPTED) from None
    for photo in job.photos:
        if photo.url:
            typer.echo(client.server + photo.url)
    if job.status is not JobStatus.COMPLETED:
        raise stop(explain_end(job, job.progress.done))
