"""What the vendor answers when it does not do what it was asked: its own bodies, and the faults of a bad day."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.responses import StreamingResponse as Streaming

from tests.doubles.serving import cut_line

_SENTENCES = {
    400: ("Bad request", "The request could not be understood."),
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: (
        "Insufficient credit",
        "You have insufficient credit to run this model. Go to https://replicate.com/account/billing#billing to "
        "purchase credit. Once you purchase credit, please wait a few minutes before trying again.",
    ),
    403: ("Forbidden", "You do not have permission to perform this action."),
    500: ("Internal server error", "Internal server error"),
    502: ("Bad gateway", "Bad gateway"),
    503: ("Service unavailable", "Service unavailable"),
    504: ("Gateway timeout", "Gateway timeout"),
}
HUGE_BYTES = 40 * 1024 * 1024


def problem(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(dict(body), status, headers, media_type="application/problem+json")


def refusal(status: int, detail: str | None = None) -> Response:
    """One of the vendor's usual refusals; `detail` replaces its usual sentence."""
    if status == 404:
        return problem(404, {"detail": detail or "The requested resource could not be found.", "status": 404})
    title, usual = _SENTENCES[status]
    return problem(status, {"title": title, "detail": detail or usual, "status": status})


def unauthenticated(given: str | None) -> Response:
    if not given:
        return refusal(401, "You did not pass an authentication token")
    return refusal(401)


def invalid_version() -> Response:
    detail = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    return problem(422, {"title": "Invalid version or not permitted", "detail": detail, "status": 422})


def throttled(wait_seconds: float, *, low_credit: bool, header: bool) -> Response:
    seconds = max(1, round(wait_seconds))
    headers = {"retry-after": str(seconds)} if header else None
    if not low_credit:
        return problem(429, {"detail": f"Request was throttled. Your rate limit resets in ~{seconds}s."}, headers)
    detail = (
        "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute with a "
        "burst of 1 requests while you have less than $5.0 in credit. "
        f"Your rate limit resets in ~{seconds}s."
    )
    return problem(429, {"detail": detail, "status": 429, "retry_after": seconds}, headers)


async def strike(fault: str, request: Request) -> Response:
    """The answer that a fault gives in place of the real one; none at all for `hang` and `drop`."""
    match fault.removesuffix("_after"):
        case "drop":
            await cut_line(request.scope)
            return Response()
        case "hang":
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response()
        case "429":
            return throttled(2, low_credit=False, header=False)
        case "422":
            problems = [{"type": "required", "field": "input", "description": "prompt is required"}]
            detail = "- input: prompt is required\n"
            body = {"detail": detail, "status": 422, "title": "Input validation failed", "invalid_fields": problems}
            return problem(422, body)
        case "html_502":
            return HTMLResponse("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
        case "list_500":
            return JSONResponse([], 500)
        case "not_json":
            return PlainTextResponse("upstream said hello", 201)
        case "redirect":
            return RedirectResponse(f"{request.url.path}?hop=1", 302)
        case "redirect_away":
            return RedirectResponse("https://elsewhere.invalid/photo.jpg", 302)
        case "huge":
            return Streaming(_zeros(), media_type="image/jpeg")
        case "broken":
            return Response(b"\xff\xd8\xff\xe0 this is no picture", media_type="image/jpeg")
        case "drip":
            return Streaming(_drops(), media_type="image/jpeg")
        case status:
            return refusal(int(status))


async def _zeros() -> AsyncIterator[bytes]:
    for _ in range(HUGE_BYTES // 65536):
        yield bytes(65536)


async def _drops() -> AsyncIterator[bytes]:
    """A byte now and then: no single read ever times out."""
    for _ in range(3000):
        yield b"\0"
        await asyncio.sleep(0.1)
