"""What Redis tells of the queues: how many messages wait, and when the sweep was last sent and last came to its end.

Beat notes each sweep that it sends, a worker each that it finished; so whoever reads this sees which of them is away.
The times are Redis's own, told by how much is left of a note's life. They are for people who watch, and nothing
depends on them: with Redis away there are none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import redis
import structlog

from shared.queue import COLLECT_QUEUE, MAINTENANCE_QUEUE, PUBLISHER_TIMEOUT_SECONDS, START_QUEUE

QUEUES = (START_QUEUE, COLLECT_QUEUE, MAINTENANCE_QUEUE)
_NOTED = ("sent", "finished")
_LIFE_MS = 24 * 60 * 60 * 1000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Infinite is an age of more than a day, or of nothing at all."""

    messages: dict[str, int]
    sweep_sent_seconds_ago: float
    sweep_finished_seconds_ago: float


def ask(pipeline: Any) -> None:
    """Put the questions into a pipeline, of either kind of client."""
    for queue in QUEUES:
        pipeline.llen(queue)
    for what in _NOTED:
        pipeline.pttl(_key(what))


def answered(answers: Sequence[int]) -> QueueFigures:
    """What the answers to `ask` say."""
    lengths, lives = answers[: len(QUEUES)], answers[len(QUEUES) :]
    sent, finished = (inf if left < 0 else (_LIFE_MS - left) / 1000 for left in lives)
    return QueueFigures(dict(zip(QUEUES, lengths, strict=True)), sent, finished)


class SweepNotes:
    """The writing side. Never raises when Redis is away."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=PUBLISHER_TIMEOUT_SECONDS, socket_connect_timeout=PUBLISHER_TIMEOUT_SECONDS
        )

    def note(self, what: Literal["sent", "finished"]) -> None:
        try:
            self._redis.set(_key(what), 1, px=_LIFE_MS)
        except redis.RedisError as error:
            log.debug("sweep.unnoted", what=what, error=str(error))


def _key(what: str) -> str:
    return f"cuggu:sweep:{what}"
