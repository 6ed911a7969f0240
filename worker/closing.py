"""The end of an attempt that nobody waits for any more: its prediction is stopped, and what it cost is booked."""

from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, origin
from shared.attempts import AttemptEnd, OpenAttempt
from shared.photos import LATE_LOOK_SECONDS
from shared.queue import MAINTENANCE_QUEUE
from shared.settings import Settings
from shared.states import AttemptOutcome
from worker.attempt_books import adopt, attempt_end, count_attempt
from worker.predictor import Gone, NotYet, Prediction, PredictionState, Predictor

CLOSE_AGAIN_SECONDS = 5.0
# By then the provider has deleted all that could tell whose a prediction was (Replicate docs: data retention).
GIVEN_UP_AFTER_SECONDS = 3600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Closing:
    """The use case, with all that it needs. Thread-safe."""

    sessions: sessionmaker[Session]
    predictor: Predictor
    settings: Settings

    def close(self, attempt_id: UUID) -> None:
        """Stop a prediction that nobody waits for any more, and book what it cost."""
        with self.sessions() as session:
            attempt = attempts.find_unclosed(session, attempt_id)
            if attempt is None:
                return
            from_where = origin.of_photo(session, attempt.photo_id)
        with origin.going_on(
            from_where, "close_attempt", MAINTENANCE_QUEUE, photo_id=attempt.photo_id, attempt_id=attempt_id
        ):
            end = self._stop(attempt)
            with self.sessions.begin() as session:
                if isinstance(end, NotYet):
                    attempts.close_later(session, attempt_id, max(end.after_seconds, CLOSE_AGAIN_SECONDS))
                    return
                closed = attempts.end(session, attempt_id, end, unwanted=True)
            if closed:
                count_attempt(self.predictor.model, end)
                log.info("attempt.closed", outcome=end.outcome, cost_usd=str(end.cost_usd))

    def _stop(self, attempt: OpenAttempt) -> AttemptEnd | NotYet:
        """How the unwanted prediction ended."""
        if attempt.prediction_id is None:
            return self._search(attempt)
        answer = self.predictor.cancel(attempt.prediction_id)
        match answer:
            case NotYet():
                return answer
            case Gone(detail, cost_usd, seconds):
                return AttemptEnd(AttemptOutcome.CANCELED, "output_expired", detail, cost_usd, seconds)
            case Prediction(state=PredictionState.RUNNING):
                return NotYet(CLOSE_AGAIN_SECONDS, "it is being canceled")
            case Prediction():
                return attempt_end(answer)

    def _search(self, attempt: OpenAttempt) -> AttemptEnd | NotYet:
        found = self.predictor.find(attempt.id, attempt.seed, attempt.created_at)
        if attempt.age_seconds >= GIVEN_UP_AFTER_SECONDS or (
            found == [] and attempt.age_seconds >= self.settings.lease_seconds + LATE_LOOK_SECONDS
        ):
            return AttemptEnd(AttemptOutcome.LOST, "answer_lost")
        if isinstance(found, NotYet):
            return found
        if found:
            with self.sessions.begin() as session:
                adopt(session, attempt, found)
        return NotYet(0, "what was found is stopped at the next look")
