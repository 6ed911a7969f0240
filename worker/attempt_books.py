"""What a prediction means for the books of its attempt: how it ended, and which one is the attempt's own."""

from collections.abc import Sequence
from decimal import Decimal

import structlog
from sqlalchemy.orm import Session

from shared import attempts
from shared.attempts import AttemptEnd, OpenAttempt
from shared.metrics import ATTEMPTS, ATTEMPTS_COST
from shared.states import AttemptOutcome
from worker.predictor import Prediction

log = structlog.get_logger()


def attempt_end(prediction: Prediction, error_code: str | None = None, error_detail: str | None = None) -> AttemptEnd:
    """The books of an ended prediction; with an error of our own where its output was of no use."""
    outcome = AttemptOutcome.FAILED if error_code else AttemptOutcome(prediction.state.value)
    return AttemptEnd(
        outcome,
        error_code or prediction.failure_code,
        error_detail or prediction.failure_detail,
        prediction.cost_usd or Decimal(0),
        prediction.seconds,
    )


def count_attempt(model: str, end: AttemptEnd) -> None:
    """To be called once its end is committed."""
    ATTEMPTS.labels(model, end.outcome.value).inc()
    ATTEMPTS_COST.labels(model).inc(float(end.cost_usd))


def adopt(session: Session, attempt: OpenAttempt, found: Sequence[Prediction]) -> None:
    """Write down the predictions found for an attempt: the oldest is the one it pays for, any other a duplicate."""
    oldest, *younger = found
    if attempts.record_prediction(session, attempt.id, oldest.id):
        log.info("prediction.found", prediction_id=oldest.id, attempt_id=str(attempt.id))
    for duplicate in younger:
        if attempts.record_duplicate(session, attempt, duplicate.id):
            log.warning("prediction.duplicate_found", prediction_id=duplicate.id, attempt_id=str(attempt.id))
