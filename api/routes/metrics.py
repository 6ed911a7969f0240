"""Figures for Prometheus, read from the rows: true over all processes, and cheap however long the history is.

What is in work is counted in partial indexes that hold nothing else, and so is what must be counted over the history.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from sqlalchemy import RowMapping, text

from api.dependencies import SessionDep

router = APIRouter(tags=["health"])

_FIGURES = text("""
SELECT
    (SELECT count(*) FROM photos WHERE status = 'PENDING') AS pending,
    (SELECT count(*) FROM photos WHERE status = 'GENERATING') AS generating,
    (SELECT coalesce(greatest(0, extract(epoch FROM cuggu_now() - min(next_check_at))), 0)::float
       FROM photos WHERE status IN ('PENDING', 'GENERATING')) AS oldest_due_seconds,
    (SELECT count(*) FROM attempts WHERE outcome = 'OPEN' AND prediction_id IS NULL) AS ambiguous,
    (SELECT count(*) FROM attempts WHERE outcome = 'LOST') AS lost,
    (SELECT count(*) FROM attempts WHERE error_code = 'duplicate') AS duplicates,
    (SELECT coalesce(sum(cost), 0)::float FROM attempts WHERE error_code = 'duplicate') AS duplicates_cost,
    (SELECT count(*) FROM deliveries WHERE status = 'WAITING') AS deliveries_waiting,
    (SELECT count(*) FROM deliveries WHERE status = 'GIVEN_UP') AS deliveries_given_up
""")


@router.get("/metrics", include_in_schema=False)
async def metrics(session: SessionDep) -> Response:
    """For Prometheus, without a token: numbers only, of nobody in particular."""
    row = (await session.execute(_FIGURES)).mappings().one()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(row))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@dataclass(frozen=True, slots=True)
class _Figures(Collector):
    row: RowMapping

    def collect(self) -> Iterator[Metric]:
        row = self.row
        photos = GaugeMetricFamily("cuggu_photos_in_work", "Photos that have not ended, by status", labels=["status"])
        photos.add_metric(["PENDING"], row["pending"])
        photos.add_metric(["GENERATING"], row["generating"])
        yield photos
        yield GaugeMetricFamily(
            "cuggu_photos_oldest_due_seconds", "How long the photo due longest has waited", row["oldest_due_seconds"]
        )
        yield GaugeMetricFamily(
            "cuggu_attempts_ambiguous", "Open attempts whose prediction is not known, or not yet", row["ambiguous"]
        )
        yield CounterMetricFamily(
            "cuggu_attempts_lost", "Attempts whose create call was never answered, nothing found", row["lost"]
        )
        yield CounterMetricFamily(
            "cuggu_duplicate_predictions",
            "Predictions ordered twice for one photo, found late and stopped",
            row["duplicates"],
        )
        yield CounterMetricFamily(
            "cuggu_duplicate_predictions_cost_usd", "What they have cost, as booked", row["duplicates_cost"]
        )
        yield GaugeMetricFamily(
            "cuggu_deliveries_waiting", "Ends of jobs that the site has not been told of", row["deliveries_waiting"]
        )
        yield CounterMetricFamily(
            "cuggu_deliveries_given_up", "Ends of jobs that the site did not take in time", row["deliveries_given_up"]
        )
