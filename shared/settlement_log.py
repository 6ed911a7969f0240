"""How a job ended, said and counted once by whoever settled it: a worker, the sweep, or its user who canceled."""

import structlog

from shared.jobs import Settlement
from shared.metrics import JOBS_ENDED, REFUNDS
from shared.states import JobStatus

log = structlog.get_logger()


def log_settlement(settlement: Settlement) -> None:
    """To be called after the commit."""
    JOBS_ENDED.labels(settlement.status.value).inc()
    if settlement.refunded_to is not None:
        REFUNDS.labels(settlement.status.value).inc()
    level = {JobStatus.FAILED: log.error, JobStatus.PARTIAL: log.warning}.get(settlement.status, log.info)
    level(
        f"job.{settlement.status.lower()}",
        job_id=str(settlement.job_id),
        stored=settlement.stored,
        error_code=settlement.error_code,
        refunded=settlement.refunded_to is not None,
    )
