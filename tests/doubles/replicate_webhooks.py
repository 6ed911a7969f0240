"""The double's webhooks: the Standard Webhooks scheme, resent like the vendor does, and the ways they go wrong.

Only the terminal webhook is resent, six times with doubling pauses, the last about a minute after the end
(Replicate docs: receive webhooks). The signing is written out here, so that it checks the library that reads it.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import secrets
import time
from typing import Any

import httpx

from tests.doubles.replicate_dials import Delivery, Dials, take
from tests.doubles.replicate_runs import ENDED, Run, new_id

_PAUSES_SECONDS = (1, 2, 4, 8, 16, 30)
STALE_SECONDS = 600


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,...` over id, timestamp and body. `secret` as the vendor shows it: whsec_..."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    def __init__(self, dials: Dials, chance: random.Random, secret: str, api_url: str, book: list[Any]) -> None:
        self._dials, self._chance, self._secret, self._api_url, self._book = dials, chance, secret, api_url, book
        self._web = httpx.AsyncClient(timeout=5, follow_redirects=False, trust_env=False)
        self._under_way: set[asyncio.Task[None]] = set()

    async def notify(self, run: Run, event: str) -> None:
        """Send what the prediction asked for, without keeping it waiting."""
        if run.webhook is None or event not in run.webhook_events:
            return
        body = json.dumps(run.body(self._api_url, lean=self._dials.lean_bodies)).encode()
        task = asyncio.create_task(self._deliver(run, event, body))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await self._web.aclose()

    async def _deliver(self, run: Run, event: str, body: bytes) -> None:
        dials = self._dials
        kind: Delivery | None = take(dials.webhooks, dials.webhook_rates, self._chance)
        message_id = f"msg_{new_id(24)}"
        delay = dials.webhook_delay_seconds + (dials.webhook_late_seconds if kind == "late" else 0)
        await asyncio.sleep(delay / dials.speed)
        if kind == "lost":
            self._note(run, event, kind, message_id, None)
            return
        if kind == "forged":
            wrong = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
            await self._post(run, event, "forged", message_id, body, secret=wrong)
        if kind == "stale":
            await self._post(run, event, "stale", message_id, body, age=STALE_SECONDS)
        pauses = _PAUSES_SECONDS if run.status in ENDED and event == "completed" else ()
        for pause in (*pauses, None):
            if await self._post(run, event, kind or "plain", message_id, body):
                break
            if pause is not None:
                await asyncio.sleep(pause / dials.speed)
        if kind == "doubled":
            await self._post(run, event, kind, message_id, body)

    async def _post(
        self, run: Run, event: str, kind: str, message_id: str, body: bytes, *, secret: str = "", age: int = 0
    ) -> bool:
        """One POST; whether it was taken (2xx)."""
        assert run.webhook is not None
        timestamp = int(time.time()) - age
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret or self._secret, message_id, timestamp, body),
        }
        try:
            status = (await self._web.post(run.webhook, content=body, headers=headers)).status_code
        except httpx.HTTPError:
            status = None
        self._note(run, event, kind, message_id, status)
        return status is not None and 200 <= status < 300

    def _note(self, run: Run, event: str, kind: str, message_id: str, status: int | None) -> None:
        self._book.append(
            {
                "at": time.time(),
                "prediction": run.id,
                "url": run.webhook,
                "event": event,
                "kind": kind,
                "webhook_id": message_id,
                "status": status,
            }
        )
