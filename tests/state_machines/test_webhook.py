"""Webhooks of every kind at a door in the middle of a rotation: which of them become a hint, and no other does (I10).

Two processes share one Redis; one of them has not heard of the new secret yet, the other still takes the old one.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import pytest
import standardwebhooks.webhooks
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from pydantic import SecretStr
from redis import Redis
from standardwebhooks import Webhook

import api.redis_guard
from api.webhook_verifier import REMEMBERED_SECONDS
from shared.queue import COLLECT_QUEUE, make_celery
from shared.settings import Settings
from tests.api_client import serve
from tests.state_machines import run

START = datetime(2026, 1, 1, tzinfo=UTC)
TOLERANCE_SECONDS = 300
SECRETS = {name: f"whsec_{letter * 32}" for name, letter in (("old", "A"), ("new", "B"), ("foreign", "C"))}
BELIEVED = {"behind": ("old",), "ahead": ("new", "old")}
processes = st.sampled_from(list(BELIEVED))
BODY = '{"id": "abc", "status": "succeeded"}'
OTHER_SIGNATURES = ("v1,", "v2,xyz", "nonsense", f"v1,{'A' * 43}=", "v1,A", "v1,\u00e9", "v1a,a,b")


class StoppedClock(datetime):
    """The clock that signatures are judged by. It goes on when it is told to, by whole seconds as they have them."""

    at = START

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(StoppedClock.at.timestamp(), tz)


@dataclass(frozen=True)
class Message:
    secret: str
    id: str
    at: datetime
    signature: str
    timestamp: str
    body: str = BODY
    genuine: bool = True


class Door:
    """The applications of this test, by how far they are in the rotation."""

    def __init__(self, runner: asyncio.Runner, processes: dict[str, httpx.AsyncClient], redis: Redis) -> None:
        self.runner, self.processes, self.redis = runner, processes, redis

    def post(self, process: str, message: Message, photo: UUID, signatures: str) -> int:
        headers = {
            "webhook-id": message.id,
            "webhook-timestamp": message.timestamp,
            "webhook-signature": signatures.encode("latin-1"),
        }
        sent = self.processes[process].post(f"/webhooks/replicate?photo={photo}", content=message.body, headers=headers)
        return self.runner.run(sent).status_code

    def hints(self) -> list[str]:
        """The photos that workers were told of, oldest first."""
        told: list[Any] = [json.loads(entry) for entry in reversed(self.redis.lrange(COLLECT_QUEUE, 0, -1))]
        return [json.loads(base64.b64decode(entry["body"]))[0][0] for entry in told]

    def pass_time(self, seconds: int) -> None:
        StoppedClock.at += timedelta(seconds=seconds)
        for key in self.redis.keys("cuggu:webhook:*"):
            left = self.redis.ttl(key) - seconds
            self.redis.expire(key, left) if left > 0 else self.redis.delete(key)


class Webhooks(RuleBasedStateMachine):
    messages = Bundle("messages")

    def __init__(self, door: Door) -> None:
        super().__init__()
        self.door = door
        self.hints: list[str] = []
        self.remembered_until: dict[str, datetime] = {}
        self.acted_on: set[str] = set()  # signatures, as long as Redis forgets nothing
        StoppedClock.at = START
        door.redis.flushdb()

    @rule(
        target=messages,
        secret=st.sampled_from(["new", "old", "foreign"]),
        webhook_id=st.sampled_from(["msg_1", "msg_2"]),
        age=st.sampled_from([0, TOLERANCE_SECONDS, -TOLERANCE_SECONDS, TOLERANCE_SECONDS + 1, -TOLERANCE_SECONDS - 1]),
        process=processes,
        before=st.lists(st.sampled_from(OTHER_SIGNATURES), max_size=2),
    )
    def send(self, secret: str, webhook_id: str, age: int, process: str, before: list[str]) -> Message:
        """Somebody signs and sends one, `age` seconds ago by our clock, after other signatures or alone."""
        at = StoppedClock.at - timedelta(seconds=age)
        signature = Webhook(SECRETS[secret]).sign(webhook_id, at, BODY)
        message = Message(secret, webhook_id, at, signature, str(int(at.timestamp())))
        self.deliver(message, process, " ".join([*before, signature]))
        return message

    @rule(
        message=messages,
        process=processes,
        later=st.sampled_from([0, 20, TOLERANCE_SECONDS + 20, 2 * TOLERANCE_SECONDS]),
        after=st.lists(st.sampled_from(OTHER_SIGNATURES), max_size=1),
    )
    def replay(self, message: Message, process: str, later: int, after: list[str]) -> None:
        self.door.pass_time(later)
        self.deliver(message, process, " ".join([message.signature, *after]))

    @rule(message=messages, process=processes, changed=st.sampled_from(["body", "id", "timestamp", "signature"]))
    def forge(self, message: Message, process: str, changed: str) -> None:
        """Somebody without a secret changes one that was overheard."""
        now = str(int(StoppedClock.at.timestamp()))
        values = {
            "body": message.body + " ",
            "id": message.id + "x",
            "timestamp": now if now != message.timestamp else str(int(now) + 1),
            "signature": message.signature[:-6] + "AAAAA=",
        }
        forged = replace(message, genuine=False, **{changed: values[changed]})  # type: ignore[arg-type]
        self.deliver(forged, process, forged.signature)

    def deliver(self, message: Message, process: str, signatures: str) -> None:
        now, photo = StoppedClock.at, uuid4()
        in_time = abs((now - message.at).total_seconds()) <= TOLERANCE_SECONDS
        believed = message.genuine and in_time and message.secret in BELIEVED[process]
        assert self.door.post(process, message, photo, signatures) == (204 if believed else 401)
        if believed and self.remembered_until.get(message.id, now) <= now:
            assert message.signature not in self.acted_on, "a replay came through"
            self.remembered_until[message.id] = now + timedelta(seconds=REMEMBERED_SECONDS)
            self.acted_on.add(message.signature)
            self.hints.append(str(photo))

    @rule()
    def redis_forgets(self) -> None:
        """Then a replay is one more hint, which costs a look at the row."""
        self.door.redis.flushdb()
        self.remembered_until.clear()
        self.acted_on.clear()
        self.hints.clear()

    @invariant()
    def workers_were_told_of_nothing_else(self) -> None:
        assert self.door.hints() == self.hints


@pytest.fixture
def door(settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", StoppedClock)
    # A busy machine must not look like a Redis that is away.
    monkeypatch.setattr(api.redis_guard, "TIMEOUT_SECONDS", 30)
    monkeypatch.setitem(make_celery.__kwdefaults__, "socket_timeout_seconds", 30)
    with asyncio.Runner() as runner, Redis.from_url(redis_url) as redis:
        stack = AsyncExitStack()
        processes = {
            name: runner.run(
                serve(
                    stack,
                    settings.model_copy(
                        update={"replicate_webhook_secrets": tuple(SecretStr(SECRETS[secret]) for secret in known)}
                    ),
                )
            )
            for name, known in BELIEVED.items()
        }
        yield Door(runner, processes, redis)
        runner.run(stack.aclose())


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_what_reaches_the_queue_was_signed_just_now_and_is_new(door: Door) -> None:
    run(Webhooks, door, examples=120, steps=25)
