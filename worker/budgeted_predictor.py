"""Any predictor, kept within the provider's limits: what there is no budget for is not sent, and answers `NotYet`."""

import threading
import time
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from shared.metrics import BUDGET_WAITS
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, Predictor, RequestKind, Unknown
from worker.provider_budget import ProviderBudget

REASON = "the provider budget"
# A request sent later than this after its grant would meet others that were granted after it.
FRESH_SECONDS = 1.0


class _NoBudget(Exception):
    def __init__(self, answer: NotYet) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class BudgetedPredictor:
    """The `Predictor` around another one, which tells the budget of every answer by itself.

    A create that `ready` was granted is used by the next `start` on the same thread. Where one call needs several
    requests, as a search over several pages does, the budget is asked for the first and charged for the others.
    """

    def __init__(self, predictor: Predictor, budget: ProviderBudget) -> None:
        self._predictor, self._budget = predictor, budget
        self.name, self.model = predictor.name, predictor.model
        self._grants = _Grants()

    def __repr__(self) -> str:
        return f"BudgetedPredictor({self._predictor!r})"

    def ready(self, photo_id: UUID, user_id: UUID) -> NotYet | None:
        """None: a create is granted to this thread, and the next `start` on it uses it."""
        refusal = self._refusal("create", photo_id, user_id)
        self._grants.at = None if refusal else time.monotonic()
        return refusal

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        if self._grants.at is None and (refusal := self.ready(order.photo_id, order.user_id)):
            return refusal

        def before_paying() -> None:
            order.before_paying()
            granted_at = self._grants.at
            if granted_at is not None and time.monotonic() - granted_at > FRESH_SECONDS:  # a slow portrait
                self._budget.give_back("create")
                if refusal := self.ready(order.photo_id, order.user_id):
                    raise _NoBudget(refusal)
            self._grants.at = None

        try:
            return self._predictor.start(replace(order, before_paying=before_paying))
        except _NoBudget as refused:
            return refused.answer
        finally:
            if self._grants.at is not None:  # nothing was sent
                self._grants.at = None
                self._budget.give_back("create")

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        return self._refusal("other", prediction_id) or self._predictor.fetch(prediction_id)

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        return self._refusal("other", attempt_id) or self._predictor.find(attempt_id, seed, created_after)

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        if self._refusal("other", prediction_id):
            return None
        return self._predictor.recognise(prediction_id, attempt_id, seed)

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        return self._refusal("other", prediction_id) or self._predictor.cancel(prediction_id)

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        """Not limited: outputs come from the provider's file servers."""
        return self._predictor.read_output(address)

    def probe(self) -> str:
        """Not asked for, because an operator waits; the budget is charged afterwards."""
        return self._predictor.probe()

    def _refusal(self, kind: RequestKind, request_id: UUID | str, user_id: UUID | None = None) -> NotYet | None:
        wait_seconds = self._budget.take(kind, request_id, user_id)
        if wait_seconds <= 0:
            return None
        BUDGET_WAITS.labels(kind).observe(wait_seconds)
        return NotYet(wait_seconds, REASON)


class _Grants(threading.local):
    """When (time.monotonic) this thread was granted a create that it has not sent yet."""

    at: float | None = None
