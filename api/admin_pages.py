"""The staff's pages as they go over the wire: plain HTML without any script, never kept, with nothing foreign."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.errors import problem_headers, problem_response, sentence

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "admin"
PREFIX = "/admin"

# No script at all: what a user wrote can become none, whatever else were to fail.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# What a page says above itself after an action that led to it.
_DONE = {
    "granted": "The credits were granted.",
    "granted-before": "This form had granted its credits already; nothing was added.",
    "retried": "This is the new job. It is free for its user.",
    "canceled": "The job was canceled.",
    "paused": "New jobs are paused. Running ones finish.",
    "paused-before": "New jobs had been paused already.",
    "resumed": "New jobs are taken again.",
    "resumed-before": "Nothing was paused.",
}


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}"


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


@cache
def _pages() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - with staff's first page

    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"usd": _usd, "time": _time, "percent": _percent, "count": lambda number: f"{number:,}"}
    return pages


def page(request: Request, name: str, status: int = 200, **shown: Any) -> Response:
    """The page of this name; after an action that led to it with what came of that."""
    done = _DONE.get(request.query_params.get("done", ""))
    body = _pages().get_template(f"{name}.html").render(path=request.url.path, done=done, **shown)
    return HTMLResponse(body, status, _HEADERS)


def done(path: str, what: str) -> Response:
    """To the page that shows what came of a form, so that reloading it sends nothing twice."""
    return RedirectResponse(f"{path}?done={what}", 303, {"Cache-Control": "no-store"})


def not_done(request: Request, why: str, status: int = 409) -> Response:
    """Why nothing was changed."""
    return page(request, "not_done", status, why=why)


def admin_error(request: Request, code: str, details: Mapping[str, Any]) -> Response:
    """A refusal as a page for staff; for everybody else as at any other address, so that nothing is given away."""
    problem = problem_response(request, code, details)
    if not getattr(request.state, "staff", False):
        return problem
    why = f"{sentence(code, 'en', details)}. {details.get('reason', '')}"
    answer = not_done(request, why.strip(), problem.status_code)
    answer.headers.update(problem_headers(code, details))
    return answer


def style_sheet() -> Response:
    return Response((FOLDER / "admin.css").read_bytes(), media_type="text/css", headers={"Cache-Control": "no-cache"})
