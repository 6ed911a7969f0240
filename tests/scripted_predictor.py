"""A provider that says what the test tells it to, and keeps books of what it was asked."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from uuid import UUID

from PIL import Image

from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState, Unknown

PRICE = Decimal("0.04")


def picture(seed: int) -> bytes:
    """A photo such as a provider would give: 3:4, another one for every seed."""
    out = BytesIO()
    Image.effect_noise((480, 640), 20 + seed % 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def done(prediction: Prediction) -> Prediction:
    return replace(
        prediction,
        state=PredictionState.SUCCEEDED,
        output=(f"memory:{prediction.id}",),
        cost_usd=PRICE,
        seconds=3.5,
    )


def failed(code: str, *, retryable: bool) -> Callable[[Prediction], Prediction]:
    return lambda prediction: replace(
        prediction,
        state=PredictionState.FAILED,
        failure_code=code,
        failure_detail="the provider's words",
        retryable=retryable,
        cost_usd=Decimal(0),
    )


@dataclass
class ScriptedPredictor:
    """Unless told otherwise a prediction runs when started, and is done when fetched.

    Queue answers in `starts` and `fetches`; a function is given the prediction and says what became of it.
    """

    name: str = "replicate"
    model: str = "scripted"
    starts: deque[NotYet | Never | Unknown | Callable[[Prediction], Prediction]] = field(default_factory=deque)
    fetches: deque[NotYet | Gone | Callable[[Prediction], Prediction]] = field(default_factory=deque)
    outputs: deque[bytes | NotYet | Gone] = field(default_factory=deque)
    orders: list[PredictionOrder] = field(default_factory=list)
    predictions: dict[str, tuple[PredictionOrder, Prediction]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)  # made, but `find` does not show them
    canceled: list[str] = field(default_factory=list)

    def create(self, order: PredictionOrder) -> Prediction:
        prediction = Prediction(f"prediction-{len(self.predictions)}", PredictionState.RUNNING, datetime.now(UTC))
        self.predictions[prediction.id] = (order, prediction)
        return prediction

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        order.before_paying()
        self.orders.append(order)
        answer = self.starts.popleft() if self.starts else None
        if isinstance(answer, NotYet | Never | Unknown):
            return answer
        prediction = self.create(order)
        return answer(prediction) if answer else prediction

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        answer = self.fetches.popleft() if self.fetches else done
        if isinstance(answer, NotYet | Gone):
            return answer
        return answer(self.predictions[prediction_id][1])

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        return [
            prediction
            for order, prediction in self.predictions.values()
            if order.seed == seed and prediction.id not in self.hidden
        ]

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        order, prediction = self.predictions[prediction_id]
        return prediction if order.attempt_id == attempt_id else None

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        self.canceled.append(prediction_id)
        return replace(self.predictions[prediction_id][1], state=PredictionState.CANCELED, cost_usd=PRICE)

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        if self.outputs:
            return self.outputs.popleft()
        return picture(self.predictions[address.removeprefix("memory:")][0].seed)

    def probe(self) -> str:
        return "scripted"
