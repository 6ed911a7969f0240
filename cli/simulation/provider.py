"""A provider under the virtual clock, with faults, that keeps books of what it really did."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image

from cli.simulation.database import rows
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState, Unknown

if TYPE_CHECKING:
    from cli.simulation.world import World

PRICE = Decimal("0.04")
CALL_SECONDS = 7.5  # as the real adapter bounds a create at a lease of 15 s
KEPT_SECONDS = 3600.0
LIST_LAG_SECONDS = 5.0
UNFIT_PORTRAIT = b"a portrait that the provider seldom takes"
_UNFIT_REFUSED = 0.85


@dataclass
class Run:
    """One prediction in the provider's own books. Times are virtual seconds."""

    prediction: Prediction
    order: PredictionOrder
    sent_at: float
    ends_at: float
    end: PredictionState
    failure: str | None
    listed_from: float
    # It came so long after it was sent that by then nobody could know of it.
    too_late: bool = False
    known_before: frozenset[str] = frozenset()  # the photo's predictions in our books when this one was sent
    unreadable_from: float | None = None

    @property
    def billed(self) -> bool:
        return self.end is PredictionState.SUCCEEDED or self.prediction.cost_usd == PRICE

    def usable_at(self, at: float) -> bool:
        """Whether it brings a photo, or would, to whoever looks at that time."""
        readable_until = self.ends_at + KEPT_SECONDS if self.unreadable_from is None else self.unreadable_from
        return self.end is PredictionState.SUCCEEDED and at < readable_until


@dataclass
class SimulatedProvider:
    world: "World"
    name: str = "simulated"
    model: str = "simulated"
    runs: dict[str, Run] = field(default_factory=dict)
    on_their_way: list[tuple[float, Run]] = field(default_factory=list)

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        dice, clock = self.world.dice, self.world.clock
        portrait = order.read_portrait()
        self.world.boundary()
        until = clock.seconds + CALL_SECONDS
        order.before_paying()
        self.world.boundary()
        if clock.seconds >= until:
            return NotYet(2, "the time was over before anything was sent")
        sent_at = clock.seconds
        self._may_be_slow(until)
        if dice.strikes("provider throttles"):
            return NotYet(dice.chance.uniform(1, 20), "throttled")
        if dice.strikes("provider refuses") or (portrait == UNFIT_PORTRAIT and dice.chance.random() < _UNFIT_REFUSED):
            return Never("bad_input", "refused")
        if dice.strikes("create never arrived"):
            self._may_be_slow(until)
            return Unknown("timed out")
        run = self._run(order, sent_at)
        if dice.strikes("create arrives late"):
            self.on_their_way.append((dice.chance.uniform(clock.seconds, until), run))
            return Unknown("the connection was lost")
        if dice.strikes("create arrives much too late"):
            run.too_late = True
            self.on_their_way.append((until + dice.chance.uniform(1, 40), run))
            return Unknown("timed out")
        self._begin(run)
        self._may_be_slow(until)
        self.world.boundary()
        if dice.strikes("create answer lost"):
            return Unknown("the answer was lost")
        return self._as_it_stands(run)

    def arrive(self) -> None:
        """Begin what was sent long ago and comes only now."""
        now = self.world.clock.seconds
        due = [run for at, run in self.on_their_way if at <= now]
        self.on_their_way = [(at, run) for at, run in self.on_their_way if at > now]
        for run in due:
            self._begin(run)

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        self.world.boundary()
        self._may_be_slow(self.world.clock.seconds + CALL_SECONDS)
        if self.world.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        return self._as_it_stands(self.runs[prediction_id])

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        self.world.boundary()
        self._may_be_slow(self.world.clock.seconds + CALL_SECONDS)
        if self.world.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        return [
            self._as_it_stands(run)
            for run in self.runs.values()
            if run.order.attempt_id == attempt_id and run.listed_from <= self.world.clock.seconds
        ]

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        self.world.boundary()
        run = self.runs.get(prediction_id)
        if run is None or run.order.attempt_id != attempt_id or self.world.dice.strikes("provider does not answer"):
            return None
        return self._as_it_stands(run)

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        self.world.boundary()
        if self.world.dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        run = self.runs[prediction_id]
        if self.world.clock.seconds < run.ends_at:
            run.ends_at, run.end, run.failure = self.world.clock.seconds, PredictionState.CANCELED, "provider_failed"
            run.prediction = replace(run.prediction, cost_usd=PRICE)  # billed for what it ran
        return self._as_it_stands(run)

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        self.world.boundary()
        run, now, dice = self.runs[address], self.world.clock.seconds, self.world.dice
        self._may_be_slow(now + CALL_SECONDS)
        if dice.strikes("provider does not answer"):
            return NotYet(2, "no answer")
        if dice.strikes("output gone") or not run.usable_at(now):
            run.unreadable_from = now if run.unreadable_from is None else run.unreadable_from
            return Gone("it was deleted", PRICE)
        if dice.strikes("output broken"):
            run.unreadable_from = now
            return b"not a picture"
        return picture(run.order.slot)

    def probe(self) -> str:
        return "simulated"

    def _run(self, order: PredictionOrder, sent_at: float) -> Run:
        end, failure = self._fate()
        known = rows(
            self.world.engine,
            "SELECT prediction_id FROM attempts WHERE photo_id = :photo AND prediction_id IS NOT NULL",
            photo=order.photo_id,
        )
        return Run(
            Prediction(f"p{order.attempt_id.hex}", PredictionState.RUNNING, self.world.clock.now),
            order,
            sent_at=sent_at,
            ends_at=KEPT_SECONDS if failure == "hangs" else self.world.dice.chance.uniform(3, 25),
            end=end,
            failure=None if failure == "hangs" else failure,
            listed_from=LIST_LAG_SECONDS if self.world.dice.strikes("list lags") else 0,
            known_before=frozenset(row.prediction_id for row in known),
        )

    def _begin(self, run: Run) -> None:
        now = self.world.clock.seconds
        run.ends_at += now
        run.listed_from += now
        self.runs[run.prediction.id] = run
        self.world.webhooks.send(run.order.photo_id, run.prediction.id, run.ends_at)

    def _fate(self) -> tuple[PredictionState, str | None]:
        strikes = self.world.dice.strikes
        if strikes("prediction moderated"):
            return PredictionState.FAILED, "moderated"
        if strikes("prediction failed"):
            return PredictionState.FAILED, "provider_failed"
        if strikes("prediction aborted"):
            return PredictionState.CANCELED, "provider_failed"
        if strikes("prediction hangs"):
            return PredictionState.FAILED, "hangs"
        return PredictionState.SUCCEEDED, None

    def _as_it_stands(self, run: Run) -> Prediction:
        if self.world.clock.seconds < run.ends_at:
            return run.prediction
        return replace(
            run.prediction,
            state=run.end,
            output=(run.prediction.id,) if run.end is PredictionState.SUCCEEDED else (),
            failure_code=run.failure,
            failure_detail=run.failure,
            cost_usd=PRICE if run.billed else Decimal(0),
            seconds=5.0,
        )

    def _may_be_slow(self, until: float) -> None:
        """The call takes its time, up to its limit at `until`."""
        if self.world.dice.strikes("call is slow"):
            now = self.world.clock.seconds
            self.world.wait(self.world.dice.chance.uniform(0, max(until - now, 0)))


@cache
def picture(slot: int) -> bytes:
    """The smallest photo that passes for one, another one for each slot."""
    out = BytesIO()
    Image.new("RGB", (256, 341), (40 + 50 * slot, 120, 200 - 40 * slot)).save(out, "JPEG")
    return out.getvalue()
