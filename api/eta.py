"""How much longer a job will take, measured: by how long the latest jobs of the same model and style took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.settings import Settings

# Read over an index, and again after a while: however many ask and however long the history is.
LATEST_JOBS = 100
KNOWN_FOR_SECONDS = 10.0
# Of fewer than these nothing is said.
SAMPLES_MIN = 5

_DURATIONS = text("""
    SELECT seconds FROM (
        SELECT id, CAST(extract(epoch FROM completed_at - created_at) AS float) AS seconds FROM jobs
        WHERE style = :style AND status = 'COMPLETED' ORDER BY completed_at DESC LIMIT :latest
    ) job
    WHERE EXISTS (
        SELECT FROM photos p JOIN attempts a ON a.photo_id = p.id
        WHERE p.job_id = job.id AND a.outcome = 'SUCCEEDED' AND a.model = :model
    )
""")


@dataclass(frozen=True, slots=True)
class Eta:
    """Half of the jobs that took longer than this one has until now ended within `p50_seconds`, nine in ten within
    `p90_seconds`."""

    p50_seconds: float
    p90_seconds: float


class Durations:
    """What is known of each style, in seconds from a job's acceptance to its four photos."""

    def __init__(self, settings: Settings) -> None:
        self._model = settings.replicate_model if settings.predictor == "replicate" else settings.predictor
        self._known: dict[str, tuple[float, Sequence[float]]] = {}

    async def of(self, session: AsyncSession, style: str) -> Sequence[float]:
        read_at, durations = self._known.get(style, (float("-inf"), ()))
        if time.monotonic() - read_at > KNOWN_FOR_SECONDS:
            wanted = {"style": style, "model": self._model, "latest": LATEST_JOBS}
            durations = (await session.scalars(_DURATIONS, wanted)).all()
            self._known[style] = time.monotonic(), durations
        return durations


def eta(durations: Sequence[float], age_seconds: float) -> Eta | None:
    """What is left for a job of this age; None when too few jobs of this kind took as long."""
    left = [duration - age_seconds for duration in durations if duration > age_seconds]
    if len(left) < SAMPLES_MIN:
        return None
    tenths = quantiles(left, n=10, method="inclusive")
    return Eta(round(tenths[4], 1), round(tenths[8], 1))
