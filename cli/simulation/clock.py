"""The virtual clock: a row in the simulated database, which `cuggu_now()` reads instead of the real time."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

START = datetime(2026, 1, 1, tzinfo=UTC)

_INSTALL = """
CREATE UNLOGGED TABLE simulated_clock (at timestamptz NOT NULL);
INSERT INTO simulated_clock VALUES ('2026-01-01T00:00:00Z');
CREATE OR REPLACE FUNCTION cuggu_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM simulated_clock';
"""


class Clock:
    """Seconds since the schedule began. It goes forward only when it is told to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds = 0.0
        self._write()

    @staticmethod
    def install(engine: Engine) -> None:
        """Put the virtual clock in the place of the real one, in a database that is for simulation only."""
        with engine.begin() as connection:
            connection.execute(text(_INSTALL))

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self._write()

    def _write(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(text("UPDATE simulated_clock SET at = :at"), {"at": self.now})
