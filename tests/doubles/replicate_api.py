"""The double's API, operation by operation, as the vendor's reference describes them."""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.doubles.replicate_answers import invalid_version, problem, refusal
from tests.doubles.replicate_dials import Dials, Operation
from tests.doubles.replicate_runs import ENDED, Run, Runs, new_id, photo_of, stamp
from tests.doubles.replicate_schemas import SHEETS, ModelSheet, input_problems, refusal_body
from tests.doubles.replicate_webhooks import Webhooks

ACCOUNT = "cuggu-double"
PAGE = 100
FILE_MAX_BYTES = 100 * 1024 * 1024
DATA_URL_MAX_CHARS = 512 * 1024  # 256 kB in base64, and room for those who count differently
_EVENTS = ("start", "output", "logs", "completed")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_PREFER = re.compile(r"wait(?:=([1-9]|[1-5][0-9]|60))?")

Work = Callable[[Request], Awaitable[Response]]


class ReplicateApi:
    """What an authenticated request within the limits does."""

    def __init__(self, api_url: str, dials: Dials, runs: Runs, webhooks: Webhooks, secret: str) -> None:
        self.api_url, self.dials, self.runs, self.webhooks, self.secret = api_url, dials, runs, webhooks, secret
        self.upload_sheets: dict[str, dict[str, Any]] = {}
        self.downloads: dict[str, list[str]] = {}

    def operations(self) -> list[tuple[str, str, Operation, Work]]:
        """Every operation as path, method, kind and what does it."""
        return [
            ("/v1/account", "GET", "account", self._account),
            ("/v1/webhooks/default/secret", "GET", "account", self._webhook_secret),
            ("/v1/models/{owner}/{name}", "GET", "account", self._model),
            ("/v1/models/{owner}/{name}/predictions", "POST", "create", self._create_of_model),
            ("/v1/predictions", "POST", "create", self._create_of_version),
            ("/v1/predictions", "GET", "list", self._list),
            ("/v1/predictions/{id}", "GET", "get", self._get),
            ("/v1/predictions/{id}/cancel", "POST", "cancel", self._cancel),
            ("/v1/files", "POST", "file", self._upload),
            ("/v1/files", "GET", "file", self._uploaded),
            ("/v1/files/{id}", "GET", "file", self._upload_sheet),
            ("/v1/files/{id}", "DELETE", "file", self._delete_upload),
            ("/delivery/{file:path}", "GET", "delivery", self._deliver),
        ]

    # --- Predictions

    async def _create_of_model(self, request: Request) -> Response:
        sheet = SHEETS.get(f"{request.path_params['owner']}/{request.path_params['name']}")
        if sheet is None:
            return refusal(404)
        return await self._create(request, sheet, allowed={"input", "webhook", "webhook_events_filter", "stream"})

    async def _create_of_version(self, request: Request) -> Response:
        body = _json_object(await request.body())
        if "version" not in body:
            return _body_problem("required", "", "version is required")
        sheet = SHEETS.get(str(body["version"]))
        if sheet is None:
            return invalid_version()
        allowed = {"version", "input", "webhook", "webhook_events_filter", "stream"}
        return await self._create(request, sheet, allowed=allowed)

    async def _create(self, request: Request, sheet: ModelSheet, *, allowed: set[str]) -> Response:
        body = _json_object(await request.body())
        refused = _body_refusal(body, allowed) or self._input_refusal(sheet, body)
        if refused:
            return refused
        cancel_after = _seconds(request.headers.get("cancel-after"))
        if cancel_after is not None and not 5 <= cancel_after <= 86400:
            return _body_problem("invalid", "", "Cancel-After must be between 5 seconds and 24 hours")
        prefer = request.headers.get("prefer")
        waits = _PREFER.fullmatch(prefer) if prefer else None
        if prefer and not waits:
            return _body_problem("invalid", "", "Prefer must be wait or wait=n, n between 1 and 60")
        run = self.runs.create(sheet, body, cancel_after, self.webhooks.notify)
        headers = {"location": f"{self.api_url}/v1/predictions/{run.id}"}
        if waits:
            headers["preference-applied"] = str(prefer)
            with anyio.move_on_after(int(waits[1] or 60)):
                await run.done.wait()
        shown = run.body(self.api_url, lean=self.dials.lean_bodies)
        if waits and run.status == "succeeded" and self.dials.sync_data_urls:
            shown |= {"status": "processing", "completed_at": None, "output": await self._inline(run)}
            shown.pop("metrics")
        return JSONResponse(shown, 202 if waits and run.status not in ENDED else 201, headers)

    def _input_refusal(self, sheet: ModelSheet, body: Mapping[str, Any]) -> Response | None:
        problems = input_problems(sheet, body["input"])
        if problems:
            return problem(422, refusal_body(problems))
        photos = body["input"].get(sheet.photo_field, [])
        for address in photos if isinstance(photos, list) else [photos]:
            if address.startswith("data:") and len(address) > DATA_URL_MAX_CHARS:
                return _body_problem("invalid", f"input.{sheet.photo_field}", "Data URLs must be less than 256kB")
        return None

    async def _inline(self, run: Run) -> Any:
        addresses = []
        for file in run.files:
            photo, content_type = await anyio.to_thread.run_sync(photo_of, run, file)
            addresses.append(f"data:{content_type};base64,{base64.b64encode(photo).decode()}")
        return addresses if run.sheet.gives_list else addresses[0]

    async def _get(self, request: Request) -> Response:
        run = self.runs.by_id.get(request.path_params["id"])
        return JSONResponse(run.body(self.api_url, lean=self.dials.lean_bodies)) if run else refusal(404)

    async def _cancel(self, request: Request) -> Response:
        run = self.runs.by_id.get(request.path_params["id"])
        if run is None:
            return refusal(404)
        await self.runs.cancel(run, self.webhooks.notify)
        return JSONResponse(run.body(self.api_url, lean=self.dials.lean_bodies))

    async def _list(self, request: Request) -> Response:
        asked = request.query_params
        newest_first = list(reversed(self.runs.by_id.values()))
        if cursor := asked.get("cursor"):
            ids = [run.id for run in newest_first]
            if cursor not in ids:
                return refusal(404)
            newest_first = newest_first[ids.index(cursor) + 1 :]
        try:
            after = datetime.fromisoformat(asked["created_after"]) if "created_after" in asked else None
            before = datetime.fromisoformat(asked["created_before"]) if "created_before" in asked else None
        except ValueError:
            return refusal(400, "created_after and created_before must be ISO 8601 dates")
        fitting = [
            run
            for run in newest_first
            if (after is None or run.created_at >= after)
            and (before is None or run.created_at < before)
            and asked.get("source") != "web"
        ]
        page, more = fitting[:PAGE], len(fitting) > PAGE
        following = str(request.url.include_query_params(cursor=page[-1].id)) if more else None
        lean, webhook = self.dials.lean_bodies, not self.dials.lean_lists
        results = [run.body(self.api_url, lean=lean, webhook=webhook) for run in page]
        return JSONResponse({"next": following, "previous": None, "results": results})

    # --- Files

    async def _upload(self, request: Request) -> Response:
        part = (await request.form()).get("content")
        if not isinstance(part, UploadFile):
            return _body_problem("required", "", "content is required")
        content = await part.read()
        if len(content) > FILE_MAX_BYTES:
            return problem(413, {"detail": "Files must be less than 100MB in size", "status": 413})
        name = new_id(48)
        now = datetime.now(UTC)
        self.runs.uploads[name] = content
        digests = {"sha256": hashlib.sha256(content).hexdigest(), "md5": hashlib.md5(content).hexdigest()}
        self.upload_sheets[name] = {
            "id": name,
            "name": part.filename,
            "content_type": part.content_type,
            "size": len(content),
            "etag": digests["md5"],
            "checksums": digests,
            "metadata": {},
            "created_at": stamp(now),
            "expires_at": stamp(now + timedelta(hours=24)),
            "urls": {"get": f"{self.api_url}/v1/files/{name}"},
        }
        return JSONResponse(self.upload_sheets[name], 201)

    async def _uploaded(self, _: Request) -> Response:
        return JSONResponse({"next": None, "previous": None, "results": list(self.upload_sheets.values())})

    async def _upload_sheet(self, request: Request) -> Response:
        sheet = self.upload_sheets.get(request.path_params["id"])
        return JSONResponse(sheet) if sheet else refusal(404)

    async def _delete_upload(self, request: Request) -> Response:
        name = request.path_params["id"]
        self.upload_sheets.pop(name, None)
        return Response(status_code=204) if self.runs.uploads.pop(name, None) is not None else refusal(404)

    async def _deliver(self, request: Request) -> Response:
        file = request.path_params["file"]
        run = self.runs.by_file.get(file)
        if run is None or run.removed:
            return Response("Not Found", 404)
        photo, content_type = await anyio.to_thread.run_sync(photo_of, run, file)
        self.downloads.setdefault(run.id, []).append(hashlib.sha256(photo).hexdigest())
        return Response(photo, media_type=content_type)

    # --- The rest of the API

    async def _account(self, _: Request) -> Response:
        return JSONResponse({"type": "user", "username": ACCOUNT, "name": "Cuggu", "github_url": None})

    async def _webhook_secret(self, _: Request) -> Response:
        return JSONResponse({"key": self.secret})

    async def _model(self, request: Request) -> Response:
        owner, name = request.path_params["owner"], request.path_params["name"]
        sheet = SHEETS.get(f"{owner}/{name}")
        if sheet is None:
            return refusal(404)
        schema = {"components": {"schemas": {"Input": sheet.input_schema()}}}
        latest = {"id": "hidden", "created_at": "2026-01-01T00:00:00Z", "openapi_schema": schema}
        return JSONResponse({"owner": owner, "name": name, "visibility": "public", "latest_version": latest})


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _body_refusal(body: Mapping[str, Any], allowed: set[str]) -> Response | None:
    unknown = sorted(set(body) - allowed)
    if unknown:
        return _body_problem("additional_property_not_allowed", "", f"Additional property {unknown[0]} is not allowed")
    if not isinstance(body.get("input"), dict):
        return _body_problem("required", "", "input is required")
    events = body.get("webhook_events_filter") or []
    if not isinstance(events, list) or not set(events) <= set(_EVENTS):
        return _body_problem("enum", "webhook_events_filter", f"must be one of the following: {', '.join(_EVENTS)}")
    webhook = body.get("webhook")
    # The vendor insists on HTTPS; the double lets tests receive on loopback.
    if webhook is not None and not str(webhook).startswith(("https://", "http://127.0.0.1", "http://localhost")):
        return _body_problem("format", "webhook", "webhook must be an HTTPS URL")
    return None


def _body_problem(kind: str, field: str, description: str) -> Response:
    return problem(422, refusal_body([{"type": kind, "field": field, "description": description}]))


def _seconds(duration: str | None) -> float | None:
    """`90`, `90s`, `5m`, `1h30m45s` in seconds; 0 for what is none of these, which no caller allows."""
    if duration is None:
        return None
    parts = _DURATION.fullmatch(duration)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    return hours * 3600 + minutes * 60 + seconds
