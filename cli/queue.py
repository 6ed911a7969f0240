"""`cuggu queue`: what waits, what runs and what is overdue, from the database; and what Redis says beside it."""

import json as jsons
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import isinf
from typing import Annotated, Any

import redis
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli.configuration import settings_here
from cli.database import database_of
from shared import queue_figures
from shared.figures import Figures, Work, read_figures
from shared.queue_figures import QueueFigures

WATCH_SECONDS = 2.0
REDIS_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    app.command()(queue)


def queue(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Say what waits, what runs and what is overdue, by age; and how many messages each queue holds.

    The rows are the truth. Messages are hints: a queue may be empty while photos wait, for a second, and full of what
    was done already.
    """
    settings = settings_here()
    with database_of(settings) as engine, _redis(settings.redis_url) as client:
        if json:
            typer.echo(jsons.dumps(_as_json(*_look(engine, client)), indent=2))
        elif watch:
            _watch(engine, client)
        else:
            Console().print(_shown(*_look(engine, client)))


@contextmanager
def _redis(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS) as client:
        yield client


def _look(engine: Engine, client: redis.Redis) -> tuple[Figures, QueueFigures | None]:
    with Session(engine) as session:
        figures = read_figures(session)
    try:
        with client.pipeline(transaction=False) as pipeline:
            queue_figures.ask(pipeline)
            return figures, queue_figures.answered(pipeline.execute())
    except redis.RedisError:
        return figures, None


def _watch(engine: Engine, client: redis.Redis) -> None:
    with Live(_shown(*_look(engine, client)), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(_shown(*_look(engine, client)), refresh=True)
        except KeyboardInterrupt:
            return


def _as_json(figures: Figures, queues: QueueFigures | None) -> dict[str, Any]:
    books = asdict(figures.books)
    return {
        "photos": {"waiting": asdict(figures.pending), "running": asdict(figures.generating)},
        "jobs_overdue": books["jobs_overdue"],
        "attempts": {name: books[name] for name in ("ambiguous", "unclosed")},
        "deliveries_waiting": books["deliveries_waiting"],
        "redis": None
        if queues is None
        else {
            "messages": queues.messages,
            "sweep_sent_seconds_ago": _finite(queues.sweep_sent_seconds_ago),
            "sweep_finished_seconds_ago": _finite(queues.sweep_finished_seconds_ago),
        },
    }


def _finite(seconds: float) -> float | None:
    return None if isinf(seconds) else seconds  # JSON knows no other


def _shown(figures: Figures, queues: QueueFigures | None) -> Group:
    photos = Table(box=None, pad_edge=False)
    for title in ("photos", "all", "overdue", "oldest", "under 10 s", "under 1 min", "under 5 min", "older"):
        photos.add_column(title, justify="left" if title == "photos" else "right", no_wrap=True)
    for name, work in (("waiting", figures.pending), ("running", figures.generating)):
        photos.add_row(name, *_cells(work))
    books = figures.books
    rest = (
        f"{books.jobs_overdue} jobs past their deadline, {books.ambiguous} attempts without a known prediction, "
        f"{books.unclosed} to be closed, {books.deliveries_waiting} webhooks to the site waiting"
    )
    if queues is None:
        return Group(photos, "", rest, "Redis does not answer: nobody knows of messages, and the sweep is not sent.")
    messages = ", ".join(f"{name} {count}" for name, count in queues.messages.items())
    sent, finished = _ago(queues.sweep_sent_seconds_ago), _ago(queues.sweep_finished_seconds_ago)
    return Group(photos, "", rest, f"messages: {messages}", f"sweep: sent {sent}, finished {finished}")


def _cells(work: Work) -> list[str]:
    counts = (work.under_10_s, work.under_1_min, work.under_5_min, work.older)
    oldest = f"{work.oldest_seconds:.0f} s" if work.photos else ""
    return [str(work.photos), str(work.overdue), oldest, *map(str, counts)]


def _ago(seconds: float) -> str:
    return "not within a day" if isinf(seconds) else f"{seconds:.1f} s ago"
