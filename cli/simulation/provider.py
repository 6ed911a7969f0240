"""A provider under the virtual clock, with faults, that keeps books of what it really did."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from io import BytesIO
from uuid import UUID

from PIL import Image

from cli.simulation.clock import Clock
from cli.simulation.dice import Dice
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState, Unknown

PRICE = Decimal("0.04")
CALL_SECONDS = 7.5  # as the real adapter bounds a create at a lease of 15 s
KEPT_SECONDS = 3600.0
LIST_LAG_SECONDS = 5.0


@dataclass
class Run:
    """One prediction in the provider's own books."""

    prediction: Prediction
    order: PredictionOrder
    ends_at: float
    end: PredictionState
    failure: str | None
    listed_from: float
    readable: bool = True  # whether its output can ever be read
    known_to_us: bool = False  # its id was in an answer that we were given

    @property
    def billed(self) -> bool:
        return self.end is PredictionState.SUCCEEDED or self.prediction.cost_usd == PRICE


@dataclass
class SimulatedProvider:
    clock: Clock
    dice: Dice
    boundary: Callable[[str], None]  # where the calling worker may die or stand still
    on_webhook: Callable[[UUID, float], None]
    name: str = "simulated"
    model: str = "simulated"
    runs: dict[str, Run] = field(default_factory=dict)
    late: list[tuple[float, PredictionOrder]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        order.before_paying()
        until = self.clock.seconds + CALL_SECONDS
        self.boundary("before the create")
        if self.clock.seconds >= until:
            return NotYet(2, "the time was over before anything was sent")
        if self.dice.strikes("provider throttles"):
            return NotYet(self.dice.chance.uniform(1, 20), "throttled")
        if self.dice.strikes("provider refuses"):
            return Never("bad_input", "refused")
        if self.dice.strikes("create never arrived"):
            return Unknown("timed out")
        if self.dice.strikes("create arrives late"):
            self.late.append((self.clock.seconds + self.dice.chance.uniform(1, 40), order))
            return Unknown("timed out")
        run = self._create(order)
        self.boundary("after the create")
        if self.dice.strikes("create answer lost"):
            return Unknown("the answer was lost")
        run.known_to_us = True
        return run.prediction

    def arrive(self) -> None:
        """Create what was sent long ago and comes only now."""
        due = [order for at, order in self.late if at <= self.clock.seconds]
        self.late = [(at, order) for at, order in self.late if at > self.clock.seconds]
        for order in due:
            self._create(order, late=True)

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        self.boundary("before the fetch")
        if self.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        return self._as_it_stands(self.runs[prediction_id])

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        self.boundary("before the search")
        if self.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        found = [
            run
            for run in self.runs.values()
            if run.order.attempt_id == attempt_id and run.listed_from <= self.clock.seconds
        ]
        for run in found:
            run.known_to_us = True
        return [replace(run.prediction) for run in found]

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        self.boundary("before the look at what a webhook named")
        run = self.runs.get(prediction_id)
        if run is None or run.order.attempt_id != attempt_id or self.dice.strikes("provider does not answer"):
            return None
        run.known_to_us = True
        return self._as_it_stands(run)

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        if self.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        run = self.runs[prediction_id]
        if self.clock.seconds < run.ends_at:
            run.ends_at, run.end, run.failure = self.clock.seconds, PredictionState.CANCELED, "provider_failed"
            run.prediction = replace(run.prediction, cost_usd=PRICE)  # billed for what it ran
        return self._as_it_stands(run)

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        self.boundary("before the download")
        run = self.runs[address]
        if self.dice.strikes("output gone"):
            run.readable = False
        if self.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        if not run.readable or self.clock.seconds > run.ends_at + KEPT_SECONDS:
            run.readable = False
            return Gone("it was deleted", PRICE)
        if self.dice.strikes("output broken"):
            run.readable = False
            return b"not a picture"
        return picture(run.order.slot)

    def probe(self) -> str:
        return "simulated"

    def _create(self, order: PredictionOrder, *, late: bool = False) -> Run:
        now = self.clock.seconds
        for other in self.runs.values():
            usable = other.billed and other.readable and now <= other.ends_at + KEPT_SECONDS
            if other.order.photo_id == order.photo_id and usable and other.known_to_us and not late:
                self.violations.append(
                    f"I4: photo {order.photo_id} was paid for again although {other.prediction.id} is"
                )
        end, failure = self._fate()
        run = Run(
            Prediction(f"p{len(self.runs)}-{order.attempt_id.hex[:8]}", PredictionState.RUNNING, self.clock.now),
            order,
            now + (KEPT_SECONDS if failure == "hangs" else self.dice.chance.uniform(3, 25)),
            end,
            None if failure == "hangs" else failure,
            now + (LIST_LAG_SECONDS if self.dice.strikes("list lags") else 0),
        )
        self.runs[run.prediction.id] = run
        self._send_webhook(order.photo_id, run.ends_at)
        return run

    def _fate(self) -> tuple[PredictionState, str | None]:
        if self.dice.strikes("prediction moderated"):
            return PredictionState.FAILED, "moderated"
        if self.dice.strikes("prediction failed"):
            return PredictionState.FAILED, "provider_failed"
        if self.dice.strikes("prediction aborted"):
            return PredictionState.CANCELED, "provider_failed"
        if self.dice.strikes("prediction hangs"):
            return PredictionState.FAILED, "hangs"
        return PredictionState.SUCCEEDED, None

    def _send_webhook(self, photo_id: UUID, at: float) -> None:
        if self.dice.strikes("webhook lost"):
            return
        self.on_webhook(photo_id, at + (self.dice.chance.uniform(5, 60) if self.dice.strikes("webhook late") else 0))
        if self.dice.strikes("webhook doubled"):
            self.on_webhook(photo_id, at + 1)

    def _as_it_stands(self, run: Run) -> Prediction:
        if self.clock.seconds < run.ends_at:
            return run.prediction
        done = run.end is PredictionState.SUCCEEDED
        return replace(
            run.prediction,
            state=run.end,
            output=(run.prediction.id,) if done else (),
            failure_code=run.failure,
            failure_detail=run.failure,
            cost_usd=PRICE if run.billed else Decimal(0),
            seconds=5.0,
        )


@cache
def picture(slot: int) -> bytes:
    """The smallest photo that passes for one, another one for each slot."""
    out = BytesIO()
    Image.new("RGB", (256, 341), (40 + 50 * slot, 120, 200 - 40 * slot)).save(out, "JPEG")
    return out.getvalue()
