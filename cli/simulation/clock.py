"""The virtual time: seconds that pass for everybody, and the database's clock, which may also jump by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, text

START = datetime(2026, 1, 1, tzinfo=UTC)

_INSTALL = """
CREATE OR REPLACE FUNCTION cuggu_now() RETURNS timestamptz LANGUAGE sql STABLE
AS $$SELECT current_setting('cuggu.now')::timestamptz$$
"""


class Clock:
    """Puts `cuggu_now()` under our hand, in a database that is for simulation only.

    Every connection is told the time when it is taken from the pool, so a transaction has one time, as with the
    real clock.

    Attributes:
        seconds: since the schedule began; never goes back.
        jumps: when (in `seconds`) the database's clock jumped, and by how many seconds.
    """

    def __init__(self, engine: Engine) -> None:
        self.restart()
        event.listen(engine, "checkout", self._tell)
        with engine.begin() as connection:
            connection.execute(text(_INSTALL))

    def restart(self) -> None:
        """Another schedule begins."""
        self.seconds = 0.0
        self.jumps: list[tuple[float, float]] = []

    @property
    def now(self) -> datetime:
        """What the database's clock shows."""
        return START + timedelta(seconds=self.seconds + sum(size for _, size in self.jumps))

    def advance_to(self, seconds: float) -> None:
        self.seconds = max(self.seconds, seconds)

    def jump(self, seconds: float) -> None:
        """Only the database's clock: forward, or back if negative."""
        self.jumps.append((self.seconds, seconds))

    def jumped_forward(self, since: float, until: float) -> bool:
        return any(since <= at <= until and size > 0 for at, size in self.jumps)

    def _tell(self, connection: Any, record: Any, _proxy: Any) -> None:
        now = self.now
        if record.info.get("now") != now:
            connection.autocommit = True  # or a rollback would take it back
            connection.execute("SELECT set_config('cuggu.now', %s, false)", [now.isoformat()])
            connection.autocommit = False
            record.info["now"] = now
