"""A double of Replicate's HTTP API, to run the real client against: `python -m tests.doubles.replicate_double`.

It speaks what the vendor's reference and recorded replies show, keeps books of its own, and can be given bad days:

    POST   /_dials   change some of the dials of replicate_dials.py (JSON); DELETE /_dials puts them back as started
    GET    /_books   every request, prediction (with seed, cost and times), 429 and webhook; ?part=predictions for one

Nothing is stored on disk. Listens on loopback only.
"""

import argparse
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.replicate_answers import strike, throttled, unauthenticated
from tests.doubles.replicate_api import ReplicateApi, Work
from tests.doubles.replicate_dials import Bucket, Dials, Operation, take
from tests.doubles.replicate_runs import Run, Runs, stamp
from tests.doubles.replicate_webhooks import Webhooks
from tests.doubles.serving import listen, serve

TOKEN = "r8_double"
SECRET = "whsec_" + base64.b64encode(b"the-double-of-replicate!").decode()


class ReplicateDouble:
    def __init__(self, api_url: str, dials: Dials, *, token: str, secret: str, chance_seed: int) -> None:
        self.token = token
        self.dials, self._as_started = dials, dials.model_copy(deep=True)
        self.chance = random.Random(chance_seed)
        self.requests: list[dict[str, Any]] = []
        self.webhooks_sent: list[dict[str, Any]] = []
        self.unanswered: set[str] = set()
        self.webhooks = Webhooks(dials, self.chance, secret, api_url, self.webhooks_sent)
        self.runs = Runs(dials, self.chance, api_url)
        self.api = ReplicateApi(api_url, dials, self.runs, self.webhooks, secret)
        self._buckets = {"create": Bucket(), "low_credit": Bucket(), "other": Bucket()}

    def app(self) -> Starlette:
        routes = [
            Route(path, self._served(operation, work), methods=[method])
            for path, method, operation, work in self.api.operations()
        ]
        ours = [
            Route("/_dials", self._turn, methods=["GET", "POST", "DELETE"]),
            Route("/_books", self._books),
        ]
        return Starlette(routes=routes + ours, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.runs.close()
        await self.webhooks.close()

    # --- What every request goes through

    def _served(self, operation: Operation, work: Work) -> Work:
        async def endpoint(request: Request) -> Response:
            await request.body()
            entry = {
                "at": time.time(),
                "operation": operation,
                "method": request.method,
                "path": request.url.path,
                "token": "authorization" in request.headers,
                "fault": None,
                "status": None,  # stays None when no answer was given
            }
            self.requests.append(entry)
            fault = take(self.dials.faults.get(operation, []), self.dials.fault_rates.get(operation, {}), self.chance)
            entry["fault"] = fault
            if fault is None or fault.endswith("_after"):
                response = await self._answer(operation, work, request)
            if fault is not None:
                if fault.endswith("_after"):
                    self.unanswered.add(response.headers.get("location", "").rpartition("/")[2])
                response = await strike(fault, request)
            if fault is None or fault.removesuffix("_after") not in ("hang", "drop"):
                entry["status"] = response.status_code
            return response

        return endpoint

    async def _answer(self, operation: Operation, work: Work, request: Request) -> Response:
        if operation == "delivery":  # the files are public, and not part of the API's limits
            return await work(request)
        given = request.headers.get("authorization")
        if given not in (f"Bearer {self.token}", f"Token {self.token}"):
            return unauthenticated(given)
        await anyio.sleep(self.dials.latency_seconds)
        dials = self.dials
        if operation == "create" and dials.low_credit:
            allowed, headers, wait = self._buckets["low_credit"].take(6, 1)
        elif operation == "create":
            allowed, headers, wait = self._buckets["create"].take(dials.creates_per_minute, dials.create_burst)
        else:
            allowed, headers, wait = self._buckets["other"].take(dials.others_per_minute, dials.others_per_minute)
        if allowed:
            response = await work(request)
        else:
            low_credit = operation == "create" and dials.low_credit
            response = throttled(wait, low_credit=low_credit, header=dials.retry_after_header)
        response.headers.update(headers)
        return response

    # --- Ours, not the vendor's

    async def _turn(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._set(self._as_started.model_copy(deep=True))
            self._buckets = {name: Bucket() for name in self._buckets}
        if request.method == "POST":
            try:
                self._set(Dials.model_validate(self.dials.model_dump() | json.loads(await request.body())))
            except (ValidationError, ValueError) as error:
                return Response(str(error), 422)
        return JSONResponse(self.dials.model_dump())

    def _set(self, wanted: Dials) -> None:
        for name in Dials.model_fields:  # in place: the running parts hold this very object
            setattr(self.dials, name, getattr(wanted, name))

    async def _books(self, request: Request) -> Response:
        part = request.query_params.get("part")
        books: dict[str, Callable[[], Any]] = {
            "requests": lambda: self.requests,
            "refused": lambda: [entry for entry in self.requests if entry["status"] == 429 and not entry["fault"]],
            "predictions": lambda: [self._entry(run) for run in self.runs.by_id.values()],
            "webhooks": lambda: self.webhooks_sent,
        }
        return JSONResponse({name: read() for name, read in books.items() if part in (None, name)})

    def _entry(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.id,
            "model": run.sheet.name,
            "seed": run.seed,
            "input": {name: _shortened(value) for name, value in run.input.items()},
            "webhook": run.webhook,
            "outcome": run.outcome,
            "status": run.status,
            "answered": run.id not in self.unanswered,
            "created_at": stamp(run.created_at),
            "started_at": stamp(run.started_at),
            "completed_at": stamp(run.completed_at),
            "outputs": len(run.files),
            "cost_usd": str(run.cost_usd),
            "downloads_sha256": self.api.downloads.get(run.id, []),
        }


def _shortened(value: Any) -> Any:
    """An input as the books keep it: data: addresses only up to their content."""
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value.partition(",")[0] if isinstance(value, str) and value.startswith("data:") else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free port; the address is printed as JSON")
    parser.add_argument("--public-url", help="where others reach it, if not at its own address; it stands in answers")
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--webhook-secret", default=SECRET)
    parser.add_argument("--chance-seed", type=int, default=1, help="for everything that is drawn by lot")
    for name, dial in Dials.model_fields.items():
        option = "--" + name.replace("_", "-")
        if isinstance(dial.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=dial.default)
        elif isinstance(dial.default, int | float):
            parser.add_argument(option, type=type(dial.default), default=dial.default)
    given = vars(parser.parse_args())
    listener, own_url = listen(given["port"])
    api_url = given["public_url"] or own_url
    dials = Dials(**{name: value for name, value in given.items() if name in Dials.model_fields})
    double = ReplicateDouble(
        api_url, dials, token=given["token"], secret=given["webhook_secret"], chance_seed=given["chance_seed"]
    )
    serve(double.app(), listener, own_url)


if __name__ == "__main__":
    main()
