"""Figures for Prometheus: what the rows and Redis tell, true over all processes, and what this process counts.

What rows tell are gauges, because rows can change their mind: an attempt that was lost may be found. Every API
process tells the same of them, so `max` is how to read them, and `sum` how to read what is counted.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import redis
from fastapi import APIRouter, Request, Response
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.dependencies import PartsDep, SessionDep
from shared import metrics as counted
from shared import queue_figures
from shared.errors import Unauthorized
from shared.figures import Figures, read_figures
from shared.queue_figures import QueueFigures

router = APIRouter(tags=["health"])


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, parts: PartsDep, session: SessionDep) -> Response:
    """For Prometheus: numbers only, of nobody in particular; with METRICS_TOKEN, for who knows it."""
    token = parts.settings.metrics_token
    given = request.headers.get("authorization", "")
    if token and not secrets.compare_digest(given.encode(), f"Bearer {token.get_secret_value()}".encode()):
        raise Unauthorized
    figures = await session.run_sync(read_figures)
    async with parts.redis.pipeline(transaction=False) as pipeline:
        queue_figures.ask(pipeline)
        try:
            queues = queue_figures.answered(await pipeline.execute())
        except (redis.RedisError, OSError):
            queues = None  # their figures are then absent
    return Response(counted.page(_Rows(figures, queues)), media_type=counted.CONTENT_TYPE)


@dataclass(frozen=True, slots=True, eq=False)  # a registry knows its collectors by identity
class _Rows(Collector):
    figures: Figures
    queues: QueueFigures | None

    def collect(self) -> Iterator[Metric]:
        work = {"PENDING": self.figures.pending, "GENERATING": self.figures.generating}
        yield _each("cuggu_photos_in_work", "Photos that have not ended, by status", "status",
                    {status: photos.photos for status, photos in work.items()})  # fmt: skip
        yield _each("cuggu_photos_overdue", "Those that were due over 10 s ago and nobody acted on", "status",
                    {status: photos.overdue for status, photos in work.items()})  # fmt: skip
        yield GaugeMetricFamily(
            "cuggu_queue_age_seconds",
            "How long the oldest PENDING photo has waited since its job was accepted",
            self.figures.pending.oldest_seconds,
        )
        yield GaugeMetricFamily(
            "cuggu_photos_oldest_due_seconds",
            "How long the photo due longest has waited for somebody to act",
            max(photos.overdue_seconds for photos in work.values()),
        )
        yield from self._books()
        if self.queues is not None:
            yield _each("cuggu_queue_messages", "Messages in Redis that no worker has taken", "queue",
                        self.queues.messages)  # fmt: skip
            yield GaugeMetricFamily(
                "cuggu_sweep_sent_age_seconds", "Since beat last sent a sweep", self.queues.sweep_sent_seconds_ago
            )
            yield GaugeMetricFamily(
                "cuggu_sweep_age_seconds", "Since a sweep last came to its end", self.queues.sweep_finished_seconds_ago
            )
        yield GaugeMetricFamily("cuggu_redis_answers", "1 while Redis answers this process", self.queues is not None)

    def _books(self) -> Iterator[Metric]:
        books, ledger = self.figures.books, self.figures.ledger
        for name, says, value in (
            ("cuggu_jobs_overdue", "Jobs past their deadline that are not settled", books.jobs_overdue),
            ("cuggu_attempts_ambiguous", "Open attempts whose prediction is not known, or not yet", books.ambiguous),
            ("cuggu_attempts_unclosed", "Attempts whose prediction is still to be stopped and booked", books.unclosed),
            ("cuggu_attempts_lost", "Attempts whose create was never answered; fewer when one is found", books.lost),
            (
                "cuggu_duplicate_predictions",
                "Predictions ordered twice for one photo; fewer when one is used after all",
                books.duplicates,
            ),
            ("cuggu_duplicate_predictions_cost_usd", "What they have cost, as booked", books.duplicates_cost),
            ("cuggu_deliveries_waiting", "Ends of jobs that the site has not been told of", books.deliveries_waiting),
            ("cuggu_deliveries_given_up", "Ends that the site did not take in time", books.deliveries_given_up),
            (
                "cuggu_loose_objects_overdue_seconds",
                "How long the object due longest has waited to be deleted",
                books.loose_overdue_seconds,
            ),
            ("cuggu_ledger_checked_users", "Users whose ledger this answer has proved", ledger.users),
            ("cuggu_ledger_wrong_users", "Those whose balance is not the sum of their entries: I1", ledger.wrong),
        ):
            yield GaugeMetricFamily(name, says, value)


def _each(name: str, says: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family
