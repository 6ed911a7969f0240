"""A double of Azure Face's detect call: its wire, its limits and its refusals, with a real detector behind them.

    python -m tests.doubles.azure_double --port 0 --key KEY

`POST /_dials` sets what it names and answers all dials; `GET /_books` tells what was asked and `DELETE
/_books` forgets it. What the vendor offers and this double does not (attributes, landmarks, face ids, pictures by
address) is refused, never invented.
"""

import argparse
import asyncio
import math
import time
from collections import deque
from io import BytesIO
from typing import Any, Literal
from uuid import uuid4

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shared.face_detector import SURE_SCORE, FaceDetector
from tests.doubles.serving import cut_line, listen, serve

KEY = "0123456789abcdef0123456789abcdef"
VERSIONS = ("v1.2", "v1.2-preview.1")
SMALLEST_BYTES, LARGEST_BYTES = 1024, 6 * 1024 * 1024
MOST_FACES = 100
F0_CALLS_PER_MINUTE = 20

_BY_01 = {"accessories", "blur", "exposure", "glasses", "headPose", "noise", "occlusion", "qualityForRecognition"}
_BY_03 = {"blur", "exposure", "glasses", "headPose", "mask", "occlusion", "qualityForRecognition"}
_ATTRIBUTES: dict[str, set[str]] = {"detection_01": _BY_01, "detection_02": set(), "detection_03": _BY_03}
_RECOGNITION_MODELS = {f"recognition_0{number}" for number in range(1, 5)}

Fault = Literal["400", "403", "429", "500", "502", "503", "html_503", "not_json", "not_a_list", "redirect",
                "drop", "hang", "drip"]  # fmt: skip


class Rectangle(BaseModel):
    top: int
    left: int
    width: int
    height: int


class Dials(BaseModel):
    model_config = ConfigDict(extra="forbid")

    faults: list[Fault] = Field([], description="each next call takes the first off")
    retry_after: str | None = Field(None, description="Retry-After in the faults 429, 500, 502 and 503")
    retry_after_header: bool = Field(True, description="the limit's 429 says it in the header, not in words alone")
    latency_seconds: float = Field(0.0, description="before every answer")
    calls_per_minute: int | None = Field(None, description=f"{F0_CALLS_PER_MINUTE} is the free tier; null: no limit")
    minute_seconds: float = Field(60.0, description="how long the limit's minute is, to see many of them soon")
    faces: list[Rectangle] | None = Field(None, description="the answer to every sound call; null: look")


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, retry_after: str | None = None, **more: Any) -> None:
        self.status, self.body = status, {"error": {"code": code, "message": message, **more}}
        self.headers = {"x-ms-error-code": code} | ({"Retry-After": retry_after} if retry_after is not None else {})


class AzureDouble:
    """An ASGI app: one Face resource with one key."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._dials = Dials()
        self._recent: deque[float] = deque()
        self._calls: list[dict[str, Any]] = []
        self._detector = FaceDetector()
        routes = [
            Route("/face/{version}/detect", self._detect, methods=["POST"]),
            Route("/_dials", self._set_dials, methods=["GET", "POST"]),
            Route("/_books", self._show_books, methods=["GET", "DELETE"]),
        ]
        self._app = Starlette(routes=routes, exception_handlers={404: _not_found})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _set_dials(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self._dials = Dials.model_validate(self._dials.model_dump() | await request.json())
            except ValidationError as error:
                return Response(error.json(), 422, media_type="application/json")
        return JSONResponse(self._dials.model_dump())

    async def _show_books(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._calls = []
            self._recent.clear()
        return JSONResponse({"calls": self._calls})

    async def _detect(self, request: Request) -> Response:
        body = await request.body()
        call: dict[str, Any] = {"path": request.url.path, "query": dict(request.query_params), "bytes": len(body)}
        self._calls.append(call)
        await asyncio.sleep(self._dials.latency_seconds)
        fault = self._dials.faults.pop(0) if self._dials.faults else None
        try:
            response = await self._faulty(fault, request) if fault else await self._answer(request, body)
        except _Refused as refused:
            response = JSONResponse(refused.body, refused.status, headers=refused.headers)
        response.headers["apim-request-id"] = str(uuid4())
        call["status"], call["fault"] = response.status_code, fault
        return response

    async def _answer(self, request: Request, body: bytes) -> Response:
        if request.headers.get("Ocp-Apim-Subscription-Key") != self._key:
            raise _Refused(
                401,
                "401",
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid "
                "key for an active subscription and use a correct regional API endpoint for your resource.",
            )
        self._let_in()
        if request.path_params["version"] not in VERSIONS:
            raise _Refused(404, "404", "Resource not found")
        _check_query(request.query_params)
        media_type = request.headers.get("Content-Type", "")
        if media_type == "application/json":
            raise _Refused(400, "InvalidURL", "Invalid image URL or error downloading from target server.")
        if media_type != "application/octet-stream":
            raise _Refused(415, "UnsupportedMediaType", "Invalid Media Type.")
        if len(body) < SMALLEST_BYTES:
            raise _Refused(400, "InvalidImageSize", "Image size is too small.")
        if len(body) > LARGEST_BYTES:
            raise _Refused(400, "InvalidImageSize", "Image size is too big.")
        if self._dials.faces is None:
            rectangles = await asyncio.to_thread(self._look, body)
        else:
            await asyncio.to_thread(_decoded, body, roughly=True)
            rectangles = self._dials.faces
        rectangles = sorted(rectangles, key=lambda box: box.width * box.height, reverse=True)[:MOST_FACES]
        return JSONResponse([{"faceRectangle": box.model_dump()} for box in rectangles])

    def _let_in(self) -> None:
        limit, now = self._dials.calls_per_minute, time.monotonic()
        while self._recent and self._recent[0] <= now - self._dials.minute_seconds:
            self._recent.popleft()
        if limit is not None and len(self._recent) >= limit:
            seconds = math.ceil(self._recent[0] + self._dials.minute_seconds - now)
            raise _Refused(
                429,
                "429",
                "Requests to the Face - Detect Operation under Face API have exceeded rate limit of your current "
                f"Face F0 pricing tier. Please retry after {seconds} seconds.",
                str(seconds) if self._dials.retry_after_header else None,
            )
        self._recent.append(now)

    def _look(self, body: bytes) -> list[Rectangle]:
        rgb = _decoded(body)
        # 36 x 36 up to 1920 x 1080, proportionally larger beyond (Azure docs: detection models).
        smallest = 36 * max(1.0, max(rgb.size) / 1920, min(rgb.size) / 1080)
        return [
            Rectangle(top=round(face.top), left=round(face.left), width=round(face.width), height=round(face.height))
            for face in self._detector.detect(rgb)
            if face.score >= SURE_SCORE and min(face.width, face.height) >= smallest
        ]

    async def _faulty(self, fault: Fault, request: Request) -> Response:
        match fault:
            case "400":
                raise _Refused(400, "InvalidImage", "Decoding error, image format unsupported.")
            case "403":
                raise _Refused(403, "403", "Public access is disabled. Please configure private endpoint.")
            case "429":
                raise _Refused(429, "429", "Rate limit is exceeded.", self._dials.retry_after)
            case "500" | "502" | "503":
                raise _Refused(int(fault), "InternalServerError", "Internal server error.", self._dials.retry_after)
            case "html_503":
                return Response("<html><h1>Service Unavailable</h1></html>", 503, media_type="text/html")
            case "not_json":
                return Response("<html>a page of some proxy's</html>", media_type="application/json")
            case "not_a_list":
                return JSONResponse({})
            case "redirect":
                return Response(status_code=307, headers={"Location": str(request.url)})
            case "drop":
                await cut_line(request.scope)
                return Response()
            case "hang":
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                return Response()
            case "drip":
                return _Drip()


class _Drip(Response):
    """An answer that never ends, and never leaves its reader waiting long for the next byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        request = Request(scope, receive)
        while not await request.is_disconnected():
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.05)


def _decoded(body: bytes, *, roughly: bool = False) -> Image.Image:
    """The picture; `roughly`, a JPEG's at an eighth of its size, where nobody looks at it, in half the time."""
    try:
        with Image.open(BytesIO(body), formats=["JPEG", "PNG", "GIF", "BMP"]) as picture:
            if roughly:
                picture.draft("RGB", (1, 1))
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _Refused(400, "InvalidImage", "Decoding error, image format unsupported.") from error


def _check_query(query: Any) -> None:
    detection = query.get("detectionModel", "detection_01")
    if detection not in _ATTRIBUTES:
        raise _Refused(400, "BadArgument", "'detectionModel' is invalid.")
    if query.get("recognitionModel", "recognition_01") not in _RECOGNITION_MODELS:
        raise _Refused(400, "BadArgument", "'recognitionModel' is invalid.")
    flags = {"returnFaceId": "true", "returnFaceLandmarks": "false", "returnRecognitionModel": "false"}
    for name, usual in flags.items():
        flags[name] = query.get(name, usual).lower()
        if flags[name] not in {"true", "false"}:
            raise _Refused(400, "BadArgument", f"'{name}' is invalid.")
    attributes = {name for name in query.get("returnFaceAttributes", "").split(",") if name}
    if attributes - _BY_01 - _BY_03:
        raise _Refused(400, "BadArgument", "Invalid argument returnFaceAttributes.")
    if attributes - _ATTRIBUTES[detection]:
        raise _Refused(400, "BadArgument", f"'returnFaceAttributes' is not supported by {detection}.")
    if flags["returnFaceLandmarks"] == "true" and detection == "detection_02":
        raise _Refused(400, "BadArgument", "'returnFaceLandmarks' is not supported by detection_02.")
    if flags["returnFaceId"] == "true":
        inner = {
            "code": "UnsupportedFeature",
            "message": "Feature is not supported, missing approval for one or more of the following features: "
            "Identification,Verification.",
        }
        raise _Refused(403, "InvalidRequest", "Invalid request has been sent.", innererror=inner)
    if attributes or "true" in flags.values():
        raise _Refused(501, "NotDoubled", "This double finds rectangles only.")


async def _not_found(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": {"code": "404", "message": "Resource not found"}}, 404)


def main() -> None:
    parser = argparse.ArgumentParser(description="A double of Azure Face's detect call")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default=KEY)
    options = parser.parse_args()
    listener, url = listen(options.port)
    serve(AzureDouble(options.key), listener, url)


if __name__ == "__main__":
    main()
