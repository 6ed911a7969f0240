"""The end of an attempt that nobody waits for any more: its prediction is stopped, and what it cost is booked."""

from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, photos
from shared.attempts import AttemptEnd, OpenAttempt
from shared.errors import StorageUnavailable
from shared.models import AttemptOutcome
from shared.settings import Settings
from shared.storage import ObjectStorage
from worker.generation import attempt_end
from worker.predictor import Gone, NotYet, Prediction, PredictionState, Predictor

CLOSE_AGAIN_SECONDS = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Closing:
    """The use case, with all that it needs. Thread-safe."""

    sessions: sessionmaker[Session]
    storage: ObjectStorage
    predictor: Predictor
    settings: Settings

    def close(self, attempt_id: UUID) -> None:
        """Stop a prediction that nobody waits for any more, and book what it cost."""
        with self.sessions() as session:
            attempt = attempts.find_unclosed(session, attempt_id)
            unpromised = photos.unpromised_object(session, attempt.photo_id) if attempt else None
        if attempt is None:
            return
        with structlog.contextvars.bound_contextvars(photo_id=str(attempt.photo_id), attempt_id=str(attempt_id)):
            end = self._stop(attempt)
            try:
                if end is not None and unpromised is not None:
                    self.storage.delete([unpromised])
            except StorageUnavailable:
                end = None
            with self.sessions.begin() as session:
                if end is None:
                    attempts.postpone_close(session, attempt_id, CLOSE_AGAIN_SECONDS)
                elif attempts.end(session, attempt_id, end):
                    log.info("attempt.closed", outcome=end.outcome, cost_usd=str(end.cost_usd))

    def _stop(self, attempt: OpenAttempt) -> AttemptEnd | None:
        """How the unwanted prediction ended; None if that cannot be said yet."""
        prediction_id = attempt.prediction_id
        if prediction_id is None:
            found = self.predictor.find(attempt.id, attempt.seed, attempt.created_at)
            if isinstance(found, NotYet):
                return None
            if not found:
                late = attempt.age_seconds >= self.settings.lease_seconds
                return AttemptEnd(AttemptOutcome.LOST, "answer_lost") if late else None
            prediction_id = found[0].id
            with self.sessions.begin() as session:
                attempts.record_prediction(session, attempt.id, prediction_id)
        answer = self.predictor.cancel(prediction_id)
        match answer:
            case Prediction(state=PredictionState.RUNNING) | NotYet():
                return None
            case Gone(detail):
                return AttemptEnd(AttemptOutcome.CANCELED, "output_expired", detail)
            case Prediction():
                return attempt_end(answer)
