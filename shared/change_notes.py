"""Progress notes over Redis pub/sub: a hint that a job has changed. What changed stands in the rows."""

from uuid import UUID

import redis
import structlog

CHANNEL = "cuggu:changed"  # every note of every job: one subscription per process, however many clients wait
TIMEOUT_SECONDS = 1.0

log = structlog.get_logger()


class ChangeNotes:
    """The sending side. Redis away: waiting clients notice a little later, by looking at the rows."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )

    def tell(self, job_id: UUID) -> None:
        """Say that this job has changed; call it after the commit."""
        try:
            self._redis.publish(CHANNEL, str(job_id))
        except redis.RedisError as error:
            log.warning("change.untold", job_id=str(job_id), error=str(error))
