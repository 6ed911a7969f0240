"""The systems that chaos can strike: how each is started, spoken to, and seen to end its jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import httpx
import psycopg

from api.auth import development_token
from cli.stack import COMMANDS
from migrations.run import upgrade
from shared.settings import Settings
from tests.chaos.couples import Door

ENDED = ("COMPLETED", "PARTIAL", "FAILED", "CANCELED")


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended, and when by the database's clock (seconds since the epoch)."""

    status: str
    at: float


class System(Protocol):
    """One system of photo jobs, as processes over PostgreSQL, Redis, Replicate and S3."""

    name: str
    processes: tuple[str, ...]
    commands: Mapping[str, tuple[str, ...]]

    def prepare(self, database_url: str) -> None:
        """Make the tables."""
        ...

    def environment(self) -> Mapping[str, str]:
        """Its own settings, beside the addresses of servers and vendors."""
        ...

    def door(self, api_url: str) -> Door: ...

    def ends(self, database_url: str, job_ids: Sequence[UUID]) -> Mapping[UUID, End]:
        """Those of the jobs that have ended. Raises psycopg.OperationalError while the database is away."""
        ...


@dataclass
class CugguDoor:
    url: str
    settings: Settings
    idempotent = True
    cancels = True

    def headers(self, email: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {development_token(self.settings, email)}"}

    def accepted(self, answer: httpx.Response) -> UUID | None:
        return UUID(answer.json()["id"]) if answer.status_code in (httpx.codes.OK, httpx.codes.ACCEPTED) else None


class Cuggu:
    """Ours, with short leases (`lease_seconds`) or with every setting as in production (None)."""

    name = "cuggu"
    processes: tuple[str, ...] = ("api", "worker", "worker-2", "beat")
    commands: Mapping[str, tuple[str, ...]] = COMMANDS

    def __init__(self, lease_seconds: float | None) -> None:
        self._lease_seconds = lease_seconds

    def prepare(self, database_url: str) -> None:
        upgrade(database_url)

    def environment(self) -> Mapping[str, str]:
        generous = {
            "SIGNUP_CREDITS": "5",
            "SUBMISSIONS_PER_WINDOW": "100",
            "FACE_VERDICT_SECONDS": "600",  # one portrait for all: its face is looked for once, and when Redis forgot
            "UPLOADS_PER_WINDOW": "1000",  # a repeated request counts, and a couple whose API dies repeats often
        }
        if self._lease_seconds is None:
            return generous
        return generous | {
            "LEASE_SECONDS": f"{self._lease_seconds:g}",
            "RESEND_SECONDS": "2",
            "CHECK_INTERVAL_SECONDS": "0.5",
            "JOB_DEADLINE_SECONDS": "120",
        }

    def door(self, api_url: str) -> Door:
        settings = Settings(_env_file=None, database_url="postgresql://nobody@127.0.0.1:1/none", redis_url="redis://")
        return CugguDoor(api_url, settings)

    def ends(self, database_url: str, job_ids: Sequence[UUID]) -> Mapping[UUID, End]:
        with psycopg.connect(database_url, connect_timeout=2) as connection:
            rows = connection.execute(
                "SELECT id, status, extract(epoch FROM completed_at)::float8 FROM jobs "
                "WHERE id = ANY(%s) AND status = ANY(%s)",
                (list(job_ids), list(ENDED)),
            ).fetchall()
        return {job_id: End(status, at) for job_id, status, at in rows}
