"""The port to whoever makes the photos: start, fetch, find and cancel a prediction, and read its output.

What happened is a value, not an exception, because every answer has its own next step: `NotYet` is asked again,
`Never` gives the photo up, `Unknown` must be searched for before another prediction may be paid for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID

from shared.settings import Settings

RequestKind = Literal["create", "other"]  # providers limit the two apart


class PredictionState(StrEnum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class PredictionOrder:
    """All that a provider needs for one photo."""

    photo_id: UUID
    attempt_id: UUID
    user_id: UUID  # users share the provider's limits fairly
    seed: int  # 0 .. 2**31 - 1, unique among our attempts: the thread by which a lost prediction is found
    style: str
    slot: int  # 0..3: which of the four variations
    prompt: str
    portrait_url: str | None  # an address the provider can fetch for some minutes, where the storage has one
    read_portrait: Callable[[], bytes]  # the JPEG itself, at most 6 MB, for when there is no such address
    webhook_url: str | None  # carries photo and attempt in its query
    # Called once, right before the request that may cost money. What it raises passes through `start`: the photo is
    # not ours any more, and nothing must be paid.
    before_paying: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One run at the provider, as it stands."""

    id: str
    state: PredictionState
    created_at: datetime
    output: tuple[str, ...] = ()  # addresses for `read_output`, when SUCCEEDED
    failure_code: str | None = None  # `moderated`, `bad_input` or `provider_failed`, when FAILED or CANCELED
    failure_detail: str | None = None  # the provider's own words, for our eyes only
    retryable: bool = True  # another attempt may do better
    cost_usd: Decimal | None = None  # None while it is not known
    seconds: float | None = None  # the provider's own time


@dataclass(frozen=True, slots=True)
class NotYet:
    """Nothing was done. Ask again, not sooner than `after_seconds` from now."""

    after_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Never:
    """This order will never be taken, however often it is sent; `code` as in `Prediction.failure_code`."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost: there may be a prediction, and it may be billed."""

    detail: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The provider had it and has it no more (outputs are kept for an hour). What it cost, it cost."""

    detail: str
    cost_usd: Decimal = Decimal(0)
    seconds: float | None = None


class Predictor(Protocol):
    """Every method is thread-safe and bounded in time: a call to the vendor ends within half of `lease_seconds`,
    reading or uploading the portrait aside. None raises for a vendor's fault.
    """

    name: str  # `preview`, `replicate`: goes into the attempt's row
    model: str

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        """Create one prediction, sending the request at most once."""

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone: ...

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        """Every prediction made for this attempt, oldest first, of those made soon after `created_after`.

        NotYet as long as there is one of which it cannot be told: an empty list is a reason to pay again.
        """

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        """The prediction that a webhook named, if it was surely made for this attempt.

        None if it was not, or if that cannot be told now: nothing follows from that, and `find` goes on looking.
        """

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        """Stop it if it still runs; the answer is the prediction as it then stands."""

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        """Download one output, from allowed hosts only and of bounded size."""

    def probe(self) -> str:
        """One cheap call for `cuggu doctor`: what answered. Raises ConnectionError with what to do."""


@runtime_checkable
class Paced(Protocol):
    """A predictor with limits of its own, which can say beforehand that a `start` would be refused for them."""

    def ready(self, photo_id: UUID, user_id: UUID) -> NotYet | None:
        """None: the next `start` on this thread may go. Cheap: no call to the provider."""


def open_predictor(settings: Settings) -> Predictor:
    """The adapter that the settings name; its calls are counted, and kept within the provider's limits."""
    from worker.observed_predictor import ObservedPredictor  # noqa: PLC0415 - knows this module

    if settings.predictor == "replicate":
        from worker.budgeted_predictor import BudgetedPredictor  # noqa: PLC0415 - knows this module
        from worker.provider_budget import ProviderBudget  # noqa: PLC0415 - knows this module
        from worker.replicate_predictor import ReplicatePredictor  # noqa: PLC0415 - imports the SDK

        budget = ProviderBudget(settings)
        replicate = ReplicatePredictor(settings, budget.note_limits, budget.penalise)
        return BudgetedPredictor(ObservedPredictor(replicate), budget)
    from worker.preview_predictor import PreviewPredictor  # noqa: PLC0415 - imports OpenCV

    return ObservedPredictor(PreviewPredictor(settings))
