"""The use case: tell the site how a job ended, by a webhook of the Standard Webhooks scheme, until it is taken.

The row of the delivery says what is due. A try is claimed, the transaction closed, the webhook posted, and what came
of it written down. A worker that dies in between leaves the try to the next one, so the site may hear of one end
twice; it knows by the `webhook-id`, which is the delivery's id in every try.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from random import SystemRandom
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from shared import deliveries, origin
from shared.deliveries import Try
from shared.metrics import DELIVERIES
from shared.models import Job, LedgerEntry, Photo, User
from shared.queue import MAINTENANCE_QUEUE
from shared.settings import Settings
from shared.states import DeliveryStatus, LedgerKind
from shared.tracing import span
from worker.webhook_sender import Answer, WebhookSender

LEASE_SECONDS = 30.0  # three times what a post may take
FIRST_PAUSE_SECONDS = 2.0  # doubled with every try
LONGEST_PAUSE_SECONDS = 15 * 60.0
JITTER = 0.25  # of the pause, to either side: what failed together does not come again together

_random = SystemRandom()
log = structlog.get_logger()


class SiteWebhook:
    """The use case, with all that it needs. Thread-safe."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self._sessions = sessions
        self._sender = None if settings.site_webhook_url is None else WebhookSender(settings)
        self._public_url = settings.public_url.rstrip("/")

    def deliver(self, delivery_id: UUID) -> None:
        """Make the delivery's next try, if it is due."""
        if self._sender is None:
            log.warning("delivery.left", delivery_id=str(delivery_id), reason="SITE_WEBHOOK_URL is not set here")
            return
        with self._sessions.begin() as session:
            made = deliveries.claim(session, delivery_id, LEASE_SECONDS)
            if made is None:
                log.debug("delivery.not_due", delivery_id=str(delivery_id))
                return
            body = self._body(session, made.job_id)
            from_where = origin.of_job(session, made.job_id)
        with origin.going_on(from_where, "deliver_webhook", MAINTENANCE_QUEUE, delivery_id=delivery_id):
            with span("site.post", "client", http__request__method="POST"):
                answer = self._sender.post(str(delivery_id), body)
            if answer.taken:
                self._taken(made, answer)
            else:
                self._not_taken(made, answer)

    def _taken(self, made: Try, answer: Answer) -> None:
        with self._sessions.begin() as session:
            first = deliveries.delivered(session, made, answer.http_status)
        if first:
            DELIVERIES.labels("taken").inc()
            log.info("delivery.taken", status=answer.http_status, tries=made.number)

    def _not_taken(self, made: Try, answer: Answer) -> None:
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(made.number - 1, 20), LONGEST_PAUSE_SECONDS)
        pause *= _random.uniform(1 - JITTER, 1 + JITTER)
        with self._sessions.begin() as session:
            status = deliveries.failed(session, made, answer.http_status, answer.says, pause)
        match status:
            case DeliveryStatus.WAITING:
                DELIVERIES.labels("postponed").inc()
                log.warning("delivery.postponed", reason=answer.says, tries=made.number, after_seconds=round(pause, 1))
            case DeliveryStatus.GIVEN_UP:
                DELIVERIES.labels("given_up").inc()
                log.error("delivery.given_up", reason=answer.says, tries=made.number)

    def _body(self, session: Session, job_id: UUID) -> str:
        job, email, left_at = session.execute(
            select(Job, User.email, User.deleted_at).join(User, User.id == Job.user_id).where(Job.id == job_id)
        ).one()
        photos = session.scalars(select(Photo).where(Photo.job_id == job_id).order_by(Photo.slot))
        refund = select(LedgerEntry.id).where(LedgerEntry.job_id == job_id, LedgerEntry.kind == LedgerKind.REFUND)
        refunded = session.scalar(refund) is not None
        data = {
            "id": str(job.id),
            "user": {"email": email if left_at is None else None},
            "status": job.status.value,
            "style": job.style,
            "role": job.role,
            "photos": [self._photo(photo) for photo in photos],
            "selected_photo_id": None if job.selected_photo_id is None else str(job.selected_photo_id),
            "error": None if job.error_code is None else {"code": job.error_code, "refunded": refunded},
            "created_at": _rfc3339(job.created_at),
            "completed_at": _rfc3339(job.completed_at),
        }
        event = {"type": f"job.{job.status.lower()}", "timestamp": _rfc3339(job.completed_at), "data": data}
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"))

    def _photo(self, photo: Photo) -> Mapping[str, Any]:
        return {
            "id": str(photo.id),
            "slot": photo.slot,
            "status": photo.status.value,
            "url": f"{self._public_url}/media/{photo.id}" if photo.object_key else None,
            "width": photo.width,
            "height": photo.height,
        }


def _rfc3339(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
