"""The provider's double for the measures that need it, and jobs that wait for it, written straight into the rows."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from bench.harness import RoundVoid
from bench.world import World
from cli.vendors import doubled_vendors
from shared.disk_storage import DiskStorage
from shared.jobs import portrait_key
from tests.doubles.replicate_double import SECRET, TOKEN
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.photos import one_face

_QUEUE = """
WITH made AS (
    INSERT INTO users (id, email, credits)
    SELECT gen_random_uuid(), 'queued-' || gen_random_uuid() || '@bench.example', 0 FROM generate_series(1, %(jobs)s)
    RETURNING id
), job AS (
    INSERT INTO jobs (id, user_id, style, portrait_id, request_fingerprint, deadline_at)
    SELECT gen_random_uuid(), id, 'CLASSIC', gen_random_uuid(), '', cuggu_now() + interval '1 hour' FROM made
    RETURNING id, portrait_id
), photo AS (
    INSERT INTO photos (id, job_id, slot, next_check_at)
    SELECT gen_random_uuid(), id, slot, cuggu_now() - number * interval '1 millisecond'
    FROM (SELECT id, row_number() OVER () AS number FROM job) AS job, generate_series(0, 3) AS slot
)
SELECT portrait_id, id FROM job
"""


@dataclass(frozen=True, slots=True)
class Provider:
    double: DoubledReplicate
    environment: Mapping[str, str]

    def refused(self) -> int:
        """How many requests it answered with 429."""
        return len(self.double.book("refused"))

    def busy_seconds(self, predictions: Sequence[Mapping[str, Any]], since: float = float("-inf")) -> float:
        """For how long after `since` (Unix time) any of these was on its way at the provider."""
        total, reached = 0.0, since
        ended = [run for run in predictions if run["completed_at"]]
        for begin, end in sorted((_epoch(run["created_at"]), _epoch(run["completed_at"])) for run in ended):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total


@contextmanager
def provider(**dials: float) -> Iterator[Provider]:
    """Replicate's double with these dials, where the harness itself runs, and the settings for it."""
    with doubled_replicate(*_options(dials)) as double:
        yield Provider(
            double,
            {
                "PREDICTOR": "replicate",
                "REPLICATE_API_TOKEN": TOKEN,
                "REPLICATE_BASE_URL": double.url,
                "REPLICATE_WEBHOOK_SECRETS": json.dumps([SECRET]),
            },
        )


@contextmanager
def provider_and_bucket(world: World, **dials: float) -> Iterator[Provider]:
    """The same with an S3 server, which the peers need: they know no other storage."""
    with (
        doubled_vendors(world.directory, replicate_options=_options(dials)) as vendors,
        httpx.Client(base_url=vendors.replicate_url, trust_env=False) as web,
    ):
        yield Provider(DoubledReplicate(vendors.replicate_url, web), vendors.environment)


def _options(dials: Mapping[str, float]) -> list[str]:
    return [word for name, value in dials.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def queue_jobs(database_url: str, data_dir: Path, jobs: int) -> list[UUID]:
    """That many accepted jobs, each of a user of its own, with a portrait on the disk; all due, one after another."""
    with psycopg.connect(database_url) as connection:
        made = connection.execute(_QUEUE, {"jobs": jobs}).fetchall()
    storage = DiskStorage(data_dir / "objects")
    first, *others = [portrait_key(portrait_id) for portrait_id, _ in made]
    storage.put(first, one_face(), "image/jpeg")
    for key in others:
        os.link(data_dir / "objects" / first, data_dir / "objects" / key)
    return [job_id for _, job_id in made]


def count(database_url: str, statement: str, *values: object) -> float:
    """The one number that a statement answers."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(statement, values).fetchone()
    if row is None:
        raise RoundVoid(f"no answer to {statement}")
    return float(row[0] or 0)


def queue_for_plain_celery(servers: Mapping[str, str], jobs: int) -> None:
    """The same for the peer: rows, and a message for each."""
    from celery import Celery  # noqa: PLC0415

    with psycopg.connect(servers["DATABASE_URL"]) as connection:
        connection.execute("INSERT INTO peer_users (email, credits) VALUES ('a', 0) ON CONFLICT DO NOTHING")
        made = connection.execute(
            "INSERT INTO peer_jobs (id, email, style, portrait_key, status) "
            "SELECT gen_random_uuid(), 'a', 'CLASSIC', 'portraits/a.jpg', 'QUEUED' FROM generate_series(1, %s::int) "
            "RETURNING id",
            (jobs,),
        ).fetchall()
    with Celery("bench", broker=servers["REDIS_URL"], set_as_current=False) as app:
        for (job_id,) in made:
            app.send_task("bench.peers.plain_celery.tasks.generate", [str(job_id)])


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
