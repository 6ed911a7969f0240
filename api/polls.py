"""Polls of jobs. Those that come while the database is read are answered together by the next read.

One statement for many costs little more than for one, however many people poll. Nothing is remembered of a job: every
read begins after the request that it answers, so whoever has changed a job sees it changed at once, on any process.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth import Caller, Proof
from api.eta import Durations, Eta, eta
from api.job_view import OWNED_JOBS, RenderedJob, render
from shared.errors import NotFound
from shared.states import ACTIVE_JOB


@dataclass(eq=False, slots=True)
class _Read:
    """One statement's worth of jobs, and what came of it."""

    job_ids: set[str] = field(default_factory=set)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    rows: Mapping[str, Row[Any]] = field(default_factory=dict)
    durations: dict[str, Sequence[float]] = field(default_factory=dict)
    error: Exception | None = None


class Polls:
    def __init__(self, engine: AsyncEngine, durations: Durations) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # single reads need no transaction
        self._durations = durations
        self._next = _Read()
        self._reading: asyncio.Task[None] | None = None

    async def look(self, caller: Caller, job_id: str, language: str) -> RenderedJob:
        """The job as `GET /jobs/{id}` answers it; its id is the text of a UUID. Raises NotFound, for another's too."""
        read = self._next
        read.job_ids.add(job_id)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await read.done.wait()
        if read.error is not None:
            raise read.error
        row = read.rows.get(job_id)
        if row is None or not _owns(caller, row):
            raise NotFound
        left: Eta | None = None
        if row.status in ACTIVE_JOB:
            left = eta(read.durations[row.style], row.age_seconds)
        return render(row, language, left)

    async def _read(self) -> None:
        """Read until nobody waits. The connection is kept for so long, because taking one costs more than reading."""
        try:
            while self._next.job_ids:
                read = self._next
                try:
                    async with self._engine.connect() as connection:
                        while self._next.job_ids:
                            read, self._next = self._next, _Read()
                            await self._read_these(read, connection)
                            read.done.set()
                except Exception as error:  # noqa: BLE001 - raised again for each who waits
                    if read is self._next:  # no connection was to be had
                        self._next = _Read()
                    read.error = error
                    read.done.set()
        finally:
            self._reading = None

    async def _read_these(self, read: _Read, connection: AsyncConnection) -> None:
        rows = (await connection.execute(OWNED_JOBS, {"job_ids": " ".join(read.job_ids)})).all()
        for style in {row.style for row in rows if row.status in ACTIVE_JOB}:
            read.durations[style] = await self._durations.of(connection, style)
        read.rows = {row.id: row for row in rows}


def _owns(caller: Caller, job: Row[Any]) -> bool:
    # An account that was deleted has no jobs, and its address is nobody's: neither way leads to another's.
    return bool(caller.email == job.email if isinstance(caller, Proof) else str(caller) == job.user_id)
