"""Any predictor, with every call to it timed, traced and logged; the ids are those that the step has bound."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import structlog

from shared.metrics import PROVIDER_CALLS
from shared.tracing import span
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, Predictor, Unknown

Answer = TypeVar("Answer")
log = structlog.get_logger()


class _Call:
    """What a call came to: `ok`, `not_yet`, `gone`, `never` or `unknown`; `crashed` if it did not say."""

    outcome = "crashed"

    def came_to(self, answer: Answer) -> Answer:
        match answer:
            case NotYet():
                self.outcome = "not_yet"
            case Gone():
                self.outcome = "gone"
            case Never():
                self.outcome = "never"
            case Unknown():
                self.outcome = "unknown"
            case _:
                self.outcome = "ok"
        return answer


class ObservedPredictor:
    """The `Predictor` around another one. A create's time holds the portrait's upload, where it takes one."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.name, self.model = predictor.name, predictor.model

    def __repr__(self) -> str:
        return f"ObservedPredictor({self._predictor!r})"

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        with self._call("create", attempt_id=order.attempt_id) as call:
            return call.came_to(self._predictor.start(order))

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        with self._call("get", prediction_id) as call:
            return call.came_to(self._predictor.fetch(prediction_id))

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        with self._call("list", attempt_id=attempt_id) as call:
            return call.came_to(self._predictor.find(attempt_id, seed, created_after))

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        with self._call("get", prediction_id) as call:
            return call.came_to(self._predictor.recognise(prediction_id, attempt_id, seed))

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        with self._call("cancel", prediction_id) as call:
            return call.came_to(self._predictor.cancel(prediction_id))

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        with self._call("output") as call:
            return call.came_to(self._predictor.read_output(address))

    def probe(self) -> str:
        return self._predictor.probe()

    @contextmanager
    def _call(self, name: str, prediction_id: str | None = None, *, attempt_id: UUID | None = None) -> Iterator[_Call]:
        call, began = _Call(), time.perf_counter()
        with span(
            f"provider.{name}",
            "client",
            gen_ai__provider__name=self.name,
            gen_ai__request__model=self.model,
            gen_ai__response__id=prediction_id,
            cuggu__attempt_id=None if attempt_id is None else str(attempt_id),
        ) as spanned:
            try:
                yield call
            finally:
                seconds = time.perf_counter() - began
                PROVIDER_CALLS.labels(self.name, name, call.outcome).observe(seconds)
                log.debug(
                    "provider.called",
                    call=name,
                    outcome=call.outcome,
                    seconds=round(seconds, 3),
                    prediction_id=prediction_id,
                )
                if spanned is not None:
                    spanned.set_attribute("cuggu.outcome", call.outcome)
