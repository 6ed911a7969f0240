"""`cuggu generate`: the client of a running server, from a portrait to four files."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import typer
from rich.console import Console

from api.auth import development_token, is_loopback
from api.schemas import JobOut
from cli.client import ApiProblem, Client, Unreachable, parse_server
from cli.configuration import default_language, settings_here, stop
from cli.job_display import JobDisplay
from shared.states import JobStatus

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_EMAIL = "you@example.com"
INTERRUPTED = 130  # the shell's convention for Ctrl-C


def register(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    portrait: Annotated[Path, typer.Argument(help="One person's portrait: JPEG, PNG, WebP or HEIC, 10 MB at most.")],
    style: Annotated[str, typer.Option(help="CLASSIC, MODERN, VINTAGE, ROMANTIC or CINEMATIC.")],
    role: Annotated[str | None, typer.Option(help="GROOM or BRIDE.")] = None,
    server: Annotated[str, typer.Option(help="Address of the API.")] = DEFAULT_SERVER,
    token: Annotated[
        str | None, typer.Option(envvar="CUGGU_TOKEN", help="Bearer token. Without one, --email is used.")
    ] = None,
    email: Annotated[
        str, typer.Option(help="Who to be at a development server on this machine, when no token is given.")
    ] = DEFAULT_EMAIL,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the photos.", show_default="cuggu-<start of the job's id>")
    ] = None,
    language: Annotated[
        Literal["ko", "en"] | None, typer.Option(help="Language of the API's sentences.", show_default="by LANG")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="The same key and request give the same job, at no further cost: to go on following one."),
    ] = None,
) -> None:
    """Have four photos made by a running server, follow the work, and save them. Costs one credit.

    The request carries an Idempotency-Key: when the connection is lost it is sent again, and never charged twice.
    Ends with status 1 when not all four photos could be made; the credit has then come back.
    """
    picture = read_portrait(portrait)
    order = _Order(portrait, picture, style.upper(), role.upper() if role else None, idempotency_key or uuid4().hex)
    console = Console(stderr=True)
    display = JobDisplay(console)
    try:
        client = Client(
            server,
            token or own_token(server, email),
            language=language or default_language(),
            on_lost=display.say,
        )
    except ValueError as error:
        raise stop(str(error), 2) from None
    with client:
        try:
            job, saved = _generate(client, order, display, out)
        except ApiProblem as problem:
            raise stop(explain(problem)) from None
        except Unreachable as error:
            told = f"{client.server} does not answer ({error})."
            if error.refused and not client.answered:
                raise stop(f"{told} Start it with `cuggu serve`, or name another with --server.") from None
            raise stop(told + _how_to_follow(order, server, email, out)) from None
        except KeyboardInterrupt:
            raise stop(
                "Stopped watching; a job that was accepted goes on." + _how_to_follow(order, server, email, out),
                INTERRUPTED,
            ) from None
    for path in saved:
        typer.echo(path)
    if job.status is not JobStatus.COMPLETED:
        raise stop(explain_end(job, len(saved)))


@dataclass(frozen=True, slots=True)
class _Order:
    portrait: Path
    picture: bytes
    style: str
    role: str | None
    key: str


def _generate(client: Client, order: _Order, display: JobDisplay, out: Path | None) -> tuple[JobOut, list[Path]]:
    with display:
        submitted = client.submit(order.picture, order.portrait.name, order.style, order.role, order.key)
        if submitted.remaining_credits is not None:
            display.say(f"accepted; credits left: {submitted.remaining_credits}")
        job: JobOut = submitted
        display.show(job)
        for job in client.watch(submitted):
            display.show(job)
    return job, client.save_photos(job, out or Path(f"cuggu-{str(job.id)[:8]}"))


def read_portrait(path: Path) -> bytes:
    """The file as it is; the API looks at what is in it. Ends the command where there is none."""
    try:
        picture = path.read_bytes()
    except FileNotFoundError:
        raise stop(f"There is no file {path}.", 2) from None
    except OSError as error:
        raise stop(f"{path} cannot be read: {error.strerror}.", 2) from None
    if not picture:
        raise stop(f"{path} is empty.", 2)
    return picture


def own_token(server: str, email: str) -> str:
    """A development token, for a server on this machine and nowhere else: it would prove nothing there.

    Raises:
        ValueError: with what to do instead.
    """
    host = parse_server(server).host
    settings = settings_here(need_servers=False)
    if not is_loopback(host) or settings.auth_mode != "development":
        raise ValueError("A token is needed for this server: give it with --token or in CUGGU_TOKEN.")
    return development_token(settings, email)


def explain(problem: ApiProblem) -> str:
    """The API's own sentence, with what it listed."""
    known = problem.body.get("known")
    return f"{problem} ({', '.join(map(str, known))})" if isinstance(known, list) else str(problem)


def explain_end(job: JobOut, stored: int) -> str:
    """Why a job that was not completed ended, and where its credit is: the API's sentence says when it came back."""
    told = job.error.detail if job.error else ""
    kept = "" if job.error and job.error.refunded else " The credit was kept."
    return f"{job.status}: {stored} of {job.progress.total} photos were made. {told}.{kept}"


def _how_to_follow(order: _Order, server: str, email: str, out: Path | None) -> str:
    command = ["cuggu", "generate", str(order.portrait), "--style", order.style]
    command += ["--role", order.role] if order.role else []
    command += ["--server", server] if server != DEFAULT_SERVER else []
    command += ["--email", email] if email != DEFAULT_EMAIL else []
    command += ["--out", str(out)] if out else []
    command += ["--idempotency-key", order.key]
    return f"\nTo follow it, at no further cost: {shlex.join(command)}"
