"""The double's predictions: how each one lives, what it makes, and what the vendor would bill for it."""

import asyncio
import base64
import random
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
from PIL import Image

from tests.doubles.replicate_dials import Dials, Outcome, take
from tests.doubles.replicate_pictures import UnusablePicture, base_picture, render
from tests.doubles.replicate_schemas import ModelSheet

ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})
FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005) (d0ub1e)"
_ALPHABET = string.ascii_lowercase + string.digits


def new_id(length: int = 26) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def stamp(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


@dataclass(eq=False)
class Run:
    """One prediction. `seed` is the one given, or the one the model drew for itself."""

    sheet: ModelSheet
    input: Mapping[str, Any]
    webhook: str | None
    webhook_events: tuple[str, ...]
    outcome: Outcome
    seed: int
    kept_for: timedelta  # after the end
    deadline: datetime | None
    id: str = field(default_factory=new_id)
    status: str = "starting"
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error: str | None = None
    base: Image.Image | None = None
    files: tuple[str, ...] = ()  # the paths of its outputs under /delivery/
    output: str | list[str] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    life: asyncio.Task[None] | None = None

    @property
    def removed(self) -> bool:
        return self.completed_at is not None and datetime.now(UTC) >= self.completed_at + self.kept_for

    @property
    def output_format(self) -> str:
        return str(self.input.get("output_format", self.sheet.default_format))

    @property
    def cost_usd(self) -> Decimal:
        """Per output picture; a run canceled while it ran is billed as well (docs: prediction lifecycle)."""
        if self.status == "succeeded":
            return self.sheet.price_usd * len(self.files)
        return self.sheet.price_usd if self.status == "canceled" and self.started_at else Decimal(0)

    def body(self, api_url: str, *, lean: bool = False, webhook: bool = True) -> dict[str, Any]:
        """The prediction object as the API shows it now."""
        removed = self.removed
        shown: dict[str, Any] = {
            "id": self.id,
            "model": self.sheet.name,
            "version": "hidden",
            "input": {} if removed else dict(self.input),
            "logs": "" if removed else f"Using seed: {self.seed}\n",
            "output": None if removed else self.output,
            "data_removed": removed,
            "error": self.error,
            "source": "api",
            "status": self.status,
            "created_at": stamp(self.created_at),
            "started_at": stamp(self.started_at),
            "completed_at": stamp(self.completed_at),
            "urls": {
                "web": f"https://replicate.com/p/{self.id}",
                "get": f"{api_url}/v1/predictions/{self.id}",
                "cancel": f"{api_url}/v1/predictions/{self.id}/cancel",
            },
        }
        if self.deadline:
            shown["deadline"] = stamp(self.deadline)
        if self.completed_at:
            ran = (self.completed_at - self.started_at).total_seconds() if self.started_at else 0.0
            total = (self.completed_at - self.created_at).total_seconds()
            shown["metrics"] = {"predict_time": ran, "total_time": total}
            if self.status == "succeeded":
                shown["metrics"]["image_count"] = len(self.files)
        if webhook and self.webhook:
            shown |= {"webhook": self.webhook, "webhook_events_filter": list(self.webhook_events)}
        if lean:
            for name in ("model", "urls", "webhook"):
                shown.pop(name, None)
        return shown

    def end(self, status: str, error: str | None = None) -> None:
        self.status, self.error, self.completed_at = status, error, datetime.now(UTC)
        self.done.set()


class Runs:
    """All predictions of the account, and the tasks that let them live."""

    def __init__(self, dials: Dials, chance: random.Random, api_url: str) -> None:
        self.uploads: dict[str, bytes] = {}  # by the id under which /v1/files gave them out
        self.by_id: dict[str, Run] = {}
        self.by_file: dict[str, Run] = {}
        self._dials, self._chance, self._api_url = dials, chance, api_url
        self._web = httpx.AsyncClient(timeout=10, follow_redirects=True, trust_env=False)
        self._bases: dict[bytes, Image.Image] = {}

    def create(
        self,
        sheet: ModelSheet,
        body: Mapping[str, Any],
        cancel_after: float | None,
        notify: Callable[[Run, str], Awaitable[None]],
    ) -> Run:
        """A new prediction, already on its way; `notify` is told of `start`, `output` and `completed`."""
        dials = self._dials
        outcome: Outcome = take(dials.outcomes, dials.outcome_rates, self._chance) or "succeeded"
        run = Run(
            sheet=sheet,
            input=body["input"],
            webhook=body.get("webhook"),
            webhook_events=tuple(body.get("webhook_events_filter") or ("output", "completed")),
            outcome=outcome,
            seed=body["input"].get("seed", self._chance.randrange(2**31)),
            kept_for=timedelta(seconds=dials.keep_seconds / dials.speed),
            deadline=None,
        )
        if cancel_after is not None:
            run.deadline = run.created_at + timedelta(seconds=cancel_after / dials.speed)
        self.by_id[run.id] = run
        run.life = asyncio.create_task(self._live(run, notify))
        return run

    async def cancel(self, run: Run, notify: Callable[[Run, str], Awaitable[None]]) -> None:
        """End it now; one that has ended already stays as it is."""
        if run.status in ENDED:
            return
        if run.life:
            run.life.cancel()
        run.end("canceled")
        await notify(run, "completed")

    async def close(self) -> None:
        for run in self.by_id.values():
            if run.life:
                run.life.cancel()
        await self._web.aclose()

    async def _live(self, run: Run, notify: Callable[[Run, str], Awaitable[None]]) -> None:
        remaining = (run.deadline - datetime.now(UTC)).total_seconds() if run.deadline else None
        try:
            async with asyncio.timeout(remaining):
                await self._work(run, notify)
        except TimeoutError:
            run.end("canceled" if run.started_at else "aborted")
        await notify(run, "completed")

    async def _work(self, run: Run, notify: Callable[[Run, str], Awaitable[None]]) -> None:
        dials = self._dials
        await asyncio.sleep(dials.start_seconds / dials.speed)
        if run.outcome == "aborted":
            run.end("aborted")
            return
        run.status, run.started_at = "processing", datetime.now(UTC)
        await notify(run, "start")
        try:
            run.base = await self._base(run)
        except (httpx.HTTPError, httpx.InvalidURL, LookupError) as error:
            run.end("failed", f"Failed to download the input image: {error}")
            return
        except UnusablePicture as error:
            run.end("failed", str(error))
            return
        spread = 1 + dials.predict_spread * self._chance.uniform(-1, 1)
        await asyncio.sleep(dials.predict_seconds * spread / dials.speed)
        match run.outcome:
            case "hang":
                await asyncio.Event().wait()
            case "moderated":
                run.end("failed", FLAGGED)
            case "bad_input":
                run.end("failed", "cannot identify image file '/tmp/tmpportrait.jpg'")
            case "failed":
                run.end("failed", "Prediction failed: an internal error occurred (E1000)")
            case "canceled":
                run.end("canceled")
            case "empty":
                run.end("succeeded")
            case "foreign":
                self._publish(run, "https://elsewhere.invalid/delivery")
            case _:
                self._publish(run, f"{self._api_url}/delivery")
                await notify(run, "output")

    def _publish(self, run: Run, origin: str) -> None:
        count = run.input.get("max_images", 1) if run.input.get("sequential_image_generation") == "auto" else 1
        run.files = tuple(f"xezq/{new_id(32)}/tmp{number}.{run.output_format}" for number in range(count))
        for file in run.files:
            self.by_file[file] = run
        addresses = [f"{origin}/{file}" for file in run.files]
        run.output = addresses if run.sheet.gives_list else addresses[0]
        run.end("succeeded")

    async def _base(self, run: Run) -> Image.Image:
        given = run.input.get(run.sheet.photo_field)
        address = given[0] if isinstance(given, list) and given else given
        portrait = await self._fetch(address) if isinstance(address, str) else b""
        if portrait not in self._bases:
            blank = not portrait
            made = Image.new("RGB", (896, 1200)) if blank else await asyncio.to_thread(base_picture, portrait)
            self._bases[portrait] = made
        return self._bases[portrait]

    async def _fetch(self, address: str) -> bytes:
        """The input picture, as the vendor would get it: its own file, a data: address, or an HTTP GET."""
        files = f"{self._api_url}/v1/files/"
        if address.startswith(files):
            return self.uploads[address.removeprefix(files)]
        if address.startswith("data:"):
            return base64.b64decode(address.partition(";base64,")[2])
        response = await self._web.get(address)
        response.raise_for_status()
        return response.content


def photo_of(run: Run, file: str) -> tuple[bytes, str]:
    """The bytes and content type of one output; several outputs of a run differ as if by consecutive seeds."""
    assert run.base is not None
    return render(run.base, (run.seed + run.files.index(file)) % 2**31, run.output_format)
