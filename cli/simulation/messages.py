"""What one process tells another: messages over a forgetful Redis, and webhooks at our real door."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic import SecretStr
from standardwebhooks import Webhook

from api.webhook_verifier import WebhookVerifier
from shared.errors import Unauthorized

if TYPE_CHECKING:
    from cli.simulation.world import World

_OURS, _STRANGERS = (f"whsec_{letter * 32}" for letter in "AB")
_BODY = '{"status": "succeeded"}'


@dataclass
class Message:
    at: float
    task: str
    item: UUID
    hinted: bool = False
    named: str | None = None  # the prediction that a webhook was about


class NobodyListens:
    """Stands where the ChangeNotes do."""

    def tell(self, job_id: UUID) -> None:
        """Nobody waits."""


@dataclass
class SimulatedQueue:
    """Stands where the JobQueue does."""

    world: "World"

    def length(self, queue: str) -> int | None:
        if self.world.dice.strikes("redis away"):
            return None
        return sum(message.task == queue for message in self.world.messages)

    def start_photos(self, ids: Iterable[UUID]) -> bool:
        return self._send("start", ids)

    def collect_photos(self, ids: Iterable[UUID]) -> bool:
        return self._send("collect", ids)

    def close_attempts(self, ids: Iterable[UUID]) -> bool:
        return self._send("close", ids)

    def collect_on_news(self, photo_id: UUID, prediction_id: str | None) -> bool:
        return self._send("collect", [photo_id], hinted=True, named=prediction_id)

    def _send(self, task: str, ids: Iterable[UUID], *, hinted: bool = False, named: str | None = None) -> bool:
        dice, now = self.world.dice, self.world.clock.seconds
        for item in sorted(ids):
            if dice.strikes("redis away"):
                return False
            if dice.strikes("message lost"):
                continue
            late = dice.chance.uniform(1, 30) if dice.strikes("message late") else 0.0
            for _ in range(2 if dice.strikes("message doubled") else 1):
                at = now + late + dice.chance.uniform(0, 0.5)
                self.world.messages.append(Message(at, task, item, hinted, named))
        return True


@dataclass(frozen=True, slots=True)
class _Webhook:
    at: float
    photo_id: UUID
    prediction_id: str
    secret: str
    age: timedelta


class SimulatedWebhooks:
    """From the provider's books to a hint in our queue, through the real check of the signature.

    Every webhook counts as new, as it does in production while Redis is away: the memory of ids is only thrift.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        unasked = cast(Any, None)
        self._verifier = WebhookVerifier([SecretStr(_OURS)], unasked, unasked)
        self._on_their_way: list[_Webhook] = []

    def send(self, photo_id: UUID, prediction_id: str, at: float) -> None:
        """The provider tells us at `at`, or does not."""
        dice = self._world.dice
        if dice.strikes("webhook lost"):
            return
        late = dice.chance.uniform(5, 60) if dice.strikes("webhook late") else 0.0
        news = _Webhook(at + late, photo_id, prediction_id, _OURS, timedelta())
        self._on_their_way += [news] * (2 if dice.strikes("webhook doubled") else 1)
        if dice.strikes("webhook forged"):
            secret, age = dice.chance.choice(((_STRANGERS, timedelta()), (_OURS, timedelta(hours=1))))
            self._on_their_way.append(_Webhook(dice.chance.uniform(at - 5, at + 5), photo_id, "forged", secret, age))

    def next_moments(self) -> Iterable[float]:
        return (news.at for news in self._on_their_way)

    def arrive(self) -> None:
        now = self._world.clock.seconds
        due = [news for news in self._on_their_way if news.at <= now]
        self._on_their_way = [news for news in self._on_their_way if news.at > now]
        for news in due:
            if self._believed(news):
                self._world.queue.collect_on_news(news.photo_id, news.prediction_id)
                if news.prediction_id == "forged":
                    self._world.violations.append(f"I10: a forged webhook for photo {news.photo_id} was believed")

    def _believed(self, news: _Webhook) -> bool:
        signed_at = datetime.now(UTC) - news.age  # by the real clock, which is the verifier's
        headers = {
            "webhook-id": "msg",
            "webhook-timestamp": str(int(signed_at.timestamp())),
            "webhook-signature": Webhook(news.secret).sign("msg", signed_at, _BODY),
        }
        try:
            self._verifier.check(_BODY.encode(), headers)
        except Unauthorized:
            return False
        return True
