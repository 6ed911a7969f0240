"""How much longer a job will take, measured: by how long the latest jobs of the same model and style took."""

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

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


class Eta(NamedTuple):
    """Half of the jobs that took longer than this one has until now ended within `p50_seconds`, nine in ten within
    `p90_seconds`."""

    p50_seconds: float
    p90_seconds: float


class Durations:
    """What is known of each style, in seconds from a job's acceptance to its four photos, shortest first."""

    def __init__(self, settings: Settings) -> None:
        self._model = settings.replicate_model if settings.predictor == "replicate" else settings.predictor
        self._known: dict[str, tuple[float, Sequence[float]]] = {}

    async def of(self, session: AsyncSession | AsyncConnection, style: str) -> Sequence[float]:
        read_at, durations = self._known.get(style, (float("-inf"), ()))
        if time.monotonic() - read_at > KNOWN_FOR_SECONDS:
            wanted = {"style": style, "model": self._model, "latest": LATEST_JOBS}
            durations = sorted(await session.scalars(_DURATIONS, wanted))
            self._known[style] = time.monotonic(), durations
        return durations


def eta(durations: Sequence[float], age_seconds: float) -> Eta | None:
    """Of durations in order: what is left for a job of this age; None when too few jobs of this kind took as long."""
    longer = bisect_right(durations, age_seconds)  # the first of those that took longer
    if len(durations) - longer < SAMPLES_MIN:
        return None
    half, nine_tenths = _quantile(durations, longer, 0.5), _quantile(durations, longer, 0.9)
    return Eta(round(half - age_seconds, 1), round(nine_tenths - age_seconds, 1))


def _quantile(ordered: Sequence[float], first: int, share: float) -> float:
    """Of the values from the `first` on, between neighbours in proportion; every poll asks, so nothing is copied."""
    at = first + share * (len(ordered) - 1 - first)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
