"""Whether the database answers, asked once at a time however many want to know, and never waited for long."""

import asyncio

import structlog

from shared.database import database_fault

log = structlog.get_logger()


class DatabaseProbe:
    """Asks by a new connection; whoever asks meanwhile shares the answer, so that asking is no way to wear it out."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._asking: asyncio.Task[bool] | None = None

    async def answers(self) -> bool:
        """Comes within two seconds."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)  # one client that leaves must not take the answer from the others

    async def _ask(self) -> bool:
        fault = await database_fault(self._database_url)
        if fault is not None:
            log.warning("database.unreachable", error=fault)
        return fault is None
