"""What Replicate says about a prediction, in our words. Lenient: bodies lack fields and may carry new statuses."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from worker.predictor import Prediction, PredictionState
from worker.replicate_http import quotable
from worker.replicate_models import ReplicateModel

_STATES = {
    "starting": PredictionState.RUNNING,
    "processing": PredictionState.RUNNING,
    "succeeded": PredictionState.SUCCEEDED,
    "failed": PredictionState.FAILED,
    "canceled": PredictionState.CANCELED,
    "aborted": PredictionState.CANCELED,  # its deadline came before it started (changelog, 2025-10)
}
# E005 and its sentence: seen in many public reports, and moderation differs from seed to seed.
_MODERATED = re.compile(r"\bE005\b|flagged as sensitive|nsfw|content (?:policy|moderation)", re.IGNORECASE)
# The portrait itself cannot be used: another seed will not help.
_UNUSABLE = re.compile(
    r"cannot identify image|(?:unsupported|invalid|corrupt\w*) image|image (?:is )?too (?:large|small)", re.IGNORECASE
)


def prediction_from(body: Mapping[str, Any], model: ReplicateModel) -> Prediction:
    """The prediction as it stands in an API answer.

    The cost follows the vendor's pages: official models bill by output picture, a failed run and one that never
    started cost nothing, one canceled while it ran is billed (docs: prediction lifecycle), here as one picture.

    Raises:
        ValueError: the body names no prediction.
    """
    prediction_id = body.get("id")
    if not isinstance(prediction_id, str) or not prediction_id:
        raise ValueError("the answer names no prediction")
    created_at = moment(body.get("created_at")) or datetime.now(UTC)
    state = _STATES.get(str(body.get("status")), PredictionState.RUNNING)
    output = _addresses(body.get("output"))
    # In sync mode the one output may stand in an answer that still says `processing`; a list may still grow.
    if state is PredictionState.RUNNING and isinstance(body.get("output"), str):
        state = PredictionState.SUCCEEDED
    metrics = body.get("metrics")
    seconds = metrics.get("predict_time") if isinstance(metrics, dict) else None
    seconds = float(seconds) if isinstance(seconds, int | float) else None
    match state:
        case PredictionState.RUNNING:
            return Prediction(prediction_id, state, created_at)
        case PredictionState.SUCCEEDED if output:
            cost = model.price_usd * len(output)
            return Prediction(prediction_id, state, created_at, output=output, cost_usd=cost, seconds=seconds)
        case PredictionState.SUCCEEDED:
            code, retryable, detail = "provider_failed", True, "succeeded without an output"
            cost = model.price_usd if body.get("data_removed") else Decimal(0)
            state = PredictionState.FAILED
        case PredictionState.CANCELED:
            code, retryable, detail = "provider_failed", True, str(body.get("status"))
            cost = model.price_usd if body.get("started_at") else Decimal(0)
        case _:
            detail = quotable(str(body.get("error") or "no reason given"))
            code, retryable = _failure(detail)
            cost = Decimal(0)
    return Prediction(
        prediction_id,
        state,
        created_at,
        failure_code=code,
        failure_detail=detail,
        retryable=retryable,
        cost_usd=cost,
        seconds=seconds,
    )


def moment(said: object) -> datetime | None:
    """A timestamp of the API (2 to 9 decimals and `Z`); None for anything else."""
    try:
        at = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _failure(detail: str) -> tuple[str, bool]:
    """Our code for a failed run, and whether another attempt may do better."""
    if _MODERATED.search(detail):
        return "moderated", True
    if _UNUSABLE.search(detail):
        return "bad_input", False
    return "provider_failed", True


def _addresses(output: object) -> tuple[str, ...]:
    if isinstance(output, str):
        return (output,)
    return tuple(item for item in output if isinstance(item, str)) if isinstance(output, list) else ()
