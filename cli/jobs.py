"""`cuggu jobs`: one job's whole story, and a failed one once more at our cost."""

import json as jsons
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from cli.actor import ActorOption, actor_of
from cli.configuration import settings_here, stop
from cli.database import database_of
from cli.unlogged import unlogged
from shared.errors import StorageUnavailable
from shared.free_retry import NotRetried, retry_free_of_charge
from shared.job_story import Line, NoOneJob, Story, find_job, read_story
from shared.models import Base
from shared.queue import JobQueue, make_celery
from shared.spending import Spending
from shared.storage import open_storage

commands = typer.Typer(help="Tell a job's story, and retry a failed one.", no_args_is_help=True, rich_markup_mode=None)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or its first 8 or more digits.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="jobs")


@commands.command()
def show(
    job_id: JobId,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Tell all that happened to a job: its states, photos, attempts, costs and credits, in time order."""
    with database_of(settings_here()) as engine, Session(engine) as session:
        try:
            story = read_story(session, find_job(session, job_id))
        except NoOneJob as error:
            raise stop(str(error)) from None
        if json:
            typer.echo(jsons.dumps(_as_json(story), ensure_ascii=False, indent=2, default=_json_value))
        else:
            _show(story)


@commands.command()
def retry(
    job_id: JobId,
    reason: Annotated[str, typer.Option(help="Why; it stands in both jobs' stories.")],
    actor: ActorOption = None,
) -> None:
    """Make a new job like a FAILED one, for the same user with the same portrait, free of charge. Once per job.

    It works for as long as the portrait is kept: PORTRAIT_RETENTION_SECONDS, an hour by default, after the job's end.
    """
    settings = settings_here()
    if not reason.strip():
        raise stop("Give a reason.", 2)
    queue = JobQueue(make_celery(settings), settings.redis_url)
    with unlogged(), database_of(settings) as engine:
        try:
            with Session(engine) as session:
                failed_id = find_job(session, job_id)
            retried = retry_free_of_charge(
                engine,
                open_storage(settings),
                queue,
                failed_id,
                reason.strip(),
                actor=actor_of(actor),
                spending=Spending(settings),
                deadline_seconds=settings.job_deadline_seconds,
                delivery_wanted=settings.site_webhook_url is not None,
            )
        except (NoOneJob, NotRetried) as error:
            raise stop(str(error)) from None
        except StorageUnavailable as error:
            why = type(error.__cause__ or error).__name__
            raise stop(f"Nothing was retried: the storage does not answer ({why}).") from None
    typer.echo(f"Job {failed_id} is retried as job {retried.job_id}, free of charge.")
    if not retried.told:
        typer.echo("The queue does not answer; the sweep will find the new job.", err=True)


# --- As JSON


def _as_json(story: Story) -> dict[str, Any]:
    lines = [{"at": line.at, "what": line.what, "slot": line.slot, "details": line.details} for line in story.lines]
    return {
        "job": _columns(story.job) | {"email": story.email},
        "states": [{"status": status, "at": at} for status, at in story.states],
        "photos": [_columns(photo) for photo in story.photos],
        "attempts": [{"slot": slot} | _columns(attempt) for slot, attempt in story.attempts],
        "ledger": [_columns(entry) for entry in story.ledger],
        "delivery": None if story.delivery is None else _columns(story.delivery),
        "costs": story.costs,
        "story": lines,
    }


def _columns(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).column_attrs}


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"not made for JSON: {type(value).__name__}")


# --- To read


def _show(story: Story) -> None:
    job = story.job
    error = f" ({': '.join(filter(None, (job.error_code, job.error_detail)))})" if job.error_code else ""
    typer.echo(f"job       {job.id}: {job.status}{error}")
    typer.echo(f"user      {story.email} ({job.user_id})")
    typer.echo(f"wanted    {job.style}{f', {job.role}' if job.role else ''}")
    typer.echo(f"states    {', '.join(f'{status} {_time(at)}' for status, at in story.states)}")
    typer.echo(f"deadline  {_time(job.deadline_at)} UTC")
    if job.deleted_at is not None:
        typer.echo(f"deleted   {_time(job.deleted_at)} UTC, by its user")
    deleted = f"deleted at {_time(job.portrait_deleted_at)} UTC" if job.portrait_deleted_at else str(job.portrait_id)
    typer.echo(f"portrait  {deleted}")
    if job.photos_deleted_at is not None and job.deleted_at is None:
        typer.echo(f"photos    deleted at {_time(job.photos_deleted_at)} UTC, because their time was over")
    typer.echo(f"delivery  {_delivery(story)}")
    costs = ", ".join(f"{cost} {currency}" for currency, cost in story.costs.items()) or "nothing"
    typer.echo(f"cost      {costs}, for {len(story.attempts)} attempts")
    console = Console(width=max(160, Console().width), markup=False, highlight=False)
    for table in (_photos(story), _attempts(story), _lines(story)):
        typer.echo()
        console.print(table)


def _delivery(story: Story) -> str:
    delivery = story.delivery
    if delivery is None:
        return "when it has ended" if story.job.delivery_wanted else "not wanted"
    answer = f", {delivery.last_error or f'HTTP {delivery.last_status}'}" if delivery.tries else ""
    again = f", due at {_time(delivery.next_try_at)} UTC" if delivery.next_try_at else ""
    return f"{delivery.status}, tries: {delivery.tries}{answer}{again}"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _photos(story: Story) -> Table:
    table = _table("photo", "status", "pixels", "bytes", "error", "object")
    for photo in story.photos:
        pixels = f"{photo.width} x {photo.height}" if photo.width else ""
        error = ": ".join(filter(None, (photo.error_code, photo.error_detail)))
        chosen = " (chosen)" if photo.id == story.job.selected_photo_id else ""
        table.add_row(
            str(photo.slot),
            f"{photo.status}{chosen}",
            pixels,
            str(photo.size_bytes or ""),
            error,
            photo.object_key or "",
        )
    return table


def _attempts(story: Story) -> Table:
    table = _table("photo", "attempt", "seed", "provider", "model", "prediction", "outcome", "cost", "seconds", "error")
    for slot, attempt in story.attempts:
        table.add_row(
            str(slot),
            str(attempt.number),
            str(attempt.seed),
            attempt.provider,
            attempt.model,
            attempt.prediction_id or "",
            attempt.outcome.value + (", to be closed" if attempt.close_due_at else ""),
            f"{attempt.cost} {attempt.currency}",
            "" if attempt.provider_seconds is None else f"{attempt.provider_seconds:.1f}",
            ": ".join(filter(None, (attempt.error_code, attempt.error_detail))),
        )
    return table


def _lines(story: Story) -> Table:
    table = _table("when (UTC)", "after s", "photo", "what", "more")
    for line in story.lines:
        after = (line.at - story.job.created_at).total_seconds()
        slot = "" if line.slot is None else str(line.slot)
        table.add_row(_time(line.at), f"{after:.2f}", slot, line.what, _details(line))
    return table


def _details(line: Line) -> str:
    return " ".join(f"{name}={value}" for name, value in line.details.items())


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
