"""The one table from refusals to HTTP, and the one renderer of errors.

Sentences that the first plan of the product wrote down are kept word for word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.database import PASSING_FAULTS
from shared.errors import Refusal, Unavailable

# A database that restarts, or a pool that is exhausted, is back within this more often than not.
DATABASE_AGAIN_SECONDS = 5
CLIENT_LEFT = 499  # nginx's word for a client that closed the connection before the answer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Problem:
    """How one code is told: HTTP status, and the sentence in Korean and English (formatted with the details)."""

    status: int
    ko: str
    en: str


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "unauthorized": Problem(401, "로그인이 필요합니다", "Unauthorized"),
        "cross_site": Problem(
            403, "다른 사이트에서 보낸 요청은 받지 않습니다", "Requests from another site's page are not taken"
        ),
        "not_found": Problem(404, "찾을 수 없습니다", "There is nothing here"),
        "method_not_allowed": Problem(405, "이 주소에서는 쓸 수 없는 요청입니다", "This address takes other methods"),
        "missing_field": Problem(400, "사진과 스타일을 모두 보내주세요", "Image and style are required"),
        "unknown_style": Problem(400, "없는 스타일입니다", "There is no such style"),
        "unknown_role": Problem(400, "역할은 GROOM 또는 BRIDE여야 합니다", "The role must be GROOM or BRIDE"),
        "invalid_request": Problem(400, "요청 형식이 올바르지 않습니다", "The request is not in the expected form"),
        "consent_required": Problem(
            400,
            "얼굴 사진 이용에 대한 동의가 필요합니다",
            "Please agree to how your portrait is used",
        ),
        "invalid_image": Problem(
            400, "사용할 수 없는 이미지입니다. JPEG, PNG, WebP, HEIC 사진을 올려주세요", "Invalid file type"
        ),
        "file_too_large": Problem(400, "파일이 너무 큽니다 (최대 10MB)", "File too large (max 10MB)"),
        "no_face": Problem(400, "얼굴이 감지되지 않았습니다", "No face was found in the photo"),
        "multiple_faces": Problem(400, "1명의 얼굴만 업로드해주세요", "Please upload a photo of one person only"),
        "face_too_small": Problem(
            400, "얼굴이 너무 작습니다. 더 가까이서 찍은 사진을 올려주세요", "The face is too small; come closer"
        ),
        "insufficient_credits": Problem(402, "크레딧이 부족합니다 (잔액 {balance})", "Insufficient credits"),
        "idempotency_conflict": Problem(
            409,
            "같은 Idempotency-Key로 다른 요청을 보냈습니다",
            "This Idempotency-Key was used for a different request",
        ),
        "grant_conflict": Problem(
            409,
            "이 reference로 다른 지급이 이미 있었습니다",
            "This reference has granted something else before",
        ),
        "job_ended": Problem(409, "이미 끝난 작업입니다", "The job has already ended"),
        "photo_not_stored": Problem(409, "아직 완성되지 않은 사진입니다", "This photo is not there to be chosen"),
        "portrait_deleted": Problem(
            409,
            "지난 사진이 이미 삭제되었습니다. 다시 올려주세요",
            "That portrait has been deleted; please upload it again",
        ),
        "rate_limited": Problem(
            429, "요청이 너무 많습니다. {retry_after_seconds}초 후에 다시 시도해주세요", "Rate limit exceeded"
        ),
        "face_check_unavailable": Problem(
            503,
            "얼굴 감지 실패. 잠시 후 다시 시도해주세요. 크레딧은 차감되지 않았습니다",
            "The face check is away for a moment; please try again. No credit was taken",
        ),
        "storage_unavailable": Problem(
            503,
            "사진을 저장하지 못했습니다. 잠시 후 다시 시도해주세요. 크레딧은 차감되지 않았습니다",
            "The photo store is away for a moment; please try again. No credit was taken",
        ),
        "paused": Problem(
            503,
            "지금은 새 작업을 받지 않습니다. 나중에 다시 시도해주세요",
            "No new jobs are taken for now; please try again later",
        ),
        "unavailable": Problem(503, "잠시 후 다시 시도해주세요", "Please try again in a moment"),
        "internal": Problem(500, "서버 오류가 발생했습니다", "Internal server error"),
    }
)


def sentence(code: str, language: str, details: Mapping[str, Any]) -> str:
    problem = PROBLEMS[code]
    return (problem.ko if language == "ko" else problem.en).format_map(details)


def preferred_language(request: Request) -> str:
    """`ko` or `en` by Accept-Language (RFC 9110, 12.5.4); Korean unless English is asked for first."""
    return _language_of(request.headers.get("accept-language", ""))


@lru_cache(256)  # browsers send a few dozen
def _language_of(accept_language: str) -> str:
    best, best_weight = "ko", 0.0
    for choice in accept_language.split(","):
        tag, *parameters = (part.strip().lower() for part in choice.split(";"))
        language = tag.partition("-")[0]
        try:
            weight = next((float(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        except ValueError:
            continue
        if language in ("ko", "en") and weight > best_weight:
            best, best_weight = language, weight
    return best


def problem_headers(code: str, details: Mapping[str, Any]) -> dict[str, str]:
    """What goes with a code in whatever form its answer has."""
    headers = {}
    if "retry_after_seconds" in details:
        headers["Retry-After"] = str(details["retry_after_seconds"])
    if PROBLEMS[code].status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def problem_response(request: Request, code: str, details: Mapping[str, Any]) -> JSONResponse:
    """RFC 9457, with our `code` and the refusal's numbers beside the standard members."""
    problem = PROBLEMS[code]
    language = preferred_language(request)
    body = {
        "type": "about:blank",
        "status": problem.status,
        "code": code,
        "detail": sentence(code, language, details),
        **details,
    }
    headers = {"Content-Language": language, **problem_headers(code, details)}
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


Renderer = Callable[[Request, str, Mapping[str, Any]], Response]


def install_error_renderer(app: FastAPI, other_forms: Mapping[str, Renderer]) -> None:
    """Every error leaves through here; below the path prefixes of `other_forms` it takes another form."""

    def render(request: Request, code: str, details: Mapping[str, Any]) -> Response:
        for prefix, other in other_forms.items():
            if request.url.path.startswith(prefix):
                return other(request, code, details)
        return problem_response(request, code, details)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)  # noqa: S101 - the registration below says so
        log.info("request.refused", code=error.code, path=request.url.path, **error.details)
        return render(request, error.code, error.details)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        places = [".".join(str(part) for part in found["loc"]) for found in error.errors()]
        return render(request, "invalid_request", {"fields": places})

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        code = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        response = render(request, code or "invalid_request", {})
        response.headers.update(error.headers or {})  # such as Allow
        return response

    async def database_away(request: Request, error: Exception) -> Response:
        # Only the driver's own words: SQLAlchemy's carry the statement and its values.
        log.error("database.unreachable", path=request.url.path, error=str(getattr(error, "orig", None) or error))
        return render(request, Unavailable.code, {"retry_after_seconds": DATABASE_AGAIN_SECONDS})

    async def client_left(request: Request, _error: Exception) -> Response:
        log.info("client.left", path=request.url.path)
        return Response(status_code=CLIENT_LEFT)  # which nobody hears

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(ClientDisconnect, client_left)
    for away in PASSING_FAULTS:
        app.add_exception_handler(away, database_away)
    app.add_middleware(Crashes, render=render)


async def render_error(request: Request, error: Exception) -> Response:
    """What `install_error_renderer` has installed for an error, for layers that lie before FastAPI's own."""
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    answer: Response = await handler(request, error)
    return answer


class Crashes:
    """Answers for what nobody expected, and logs it once, inside whatever names the request.

    An exception handler would do it in Starlette's outermost layer, beyond the request's id, and raise it again.
    """

    def __init__(self, app: ASGIApp, render: Renderer) -> None:
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            request = Request(scope)
            log.error("request.crashed", path=request.url.path, exc_info=error)
            if started:
                raise  # the server must break the connection: what was sent is not whole
            await self._render(request, "internal", {})(scope, receive, send)
