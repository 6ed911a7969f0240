"""Orders for the tests of the predictors, and waiting for what becomes of them."""

import random
from typing import Any
from uuid import uuid4

from tests.photos import one_face
from tests.waiting import wait_until
from worker.predictor import Gone, NotYet, Prediction, PredictionOrder, PredictionState, Predictor


def an_order(**changes: Any) -> PredictionOrder:
    """A good order with ids and a seed of its own; its portrait is read, not fetched."""
    values: dict[str, Any] = {
        "photo_id": uuid4(),
        "attempt_id": uuid4(),
        "user_id": uuid4(),
        "seed": random.SystemRandom().randrange(2**31),  # not the generator that the test plugins seed alike
        "style": "CLASSIC",
        "slot": 0,
        "prompt": "a wedding portrait of this person",
        "portrait_url": None,
        "read_portrait": one_face,
        "webhook_url": None,
        "before_paying": lambda: None,
    }
    return PredictionOrder(**values | changes)


def started(predictor: Predictor, order: PredictionOrder, seconds: float = 20.0) -> Prediction:
    """The prediction, asked for again as long as the predictor says "not yet"."""

    def ask() -> object:
        answer = predictor.start(order)
        return None if isinstance(answer, NotYet) else answer

    answer = wait_until(ask, seconds)
    assert isinstance(answer, Prediction), answer
    return answer


def ended(predictor: Predictor, prediction_id: str, seconds: float = 20.0) -> Prediction:
    """The prediction once it runs no more."""

    def look() -> Prediction | None:
        answer = predictor.fetch(prediction_id)
        assert not isinstance(answer, Gone), answer
        runs = isinstance(answer, NotYet) or answer.state is PredictionState.RUNNING
        return None if runs else answer

    answer = wait_until(look, seconds)
    assert answer is not None
    return answer


def photo(predictor: Predictor, order: PredictionOrder) -> bytes:
    """The one photo that comes of an order."""
    prediction = ended(predictor, started(predictor, order).id)
    assert prediction.state is PredictionState.SUCCEEDED, prediction
    (address,) = prediction.output
    content = predictor.read_output(address)
    assert isinstance(content, bytes), content
    return content
