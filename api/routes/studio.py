"""The page that people see: `/` and its parts, with what a browser may do on it."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from api.dependencies import PartsDep
from api.studio_files import PREFIX, StudioFile, content_security_policy
from shared.errors import NotFound

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "no-cache"  # kept, and used after a 304

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def show_page(
    request: Request, parts: PartsDep, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The page itself; its address holds what is shown behind a `#`, so there is only one."""
    response = _serve(request, parts.studio.first(), _ASK_FIRST, if_none_match)
    response.headers["Content-Security-Policy"] = content_security_policy(parts.storage.public_origin)
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return response


@router.api_route(PREFIX + "{path:path}", methods=["GET", "HEAD"])
async def show_part(
    request: Request, parts: PartsDep, path: str, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A module, a sheet of style, a sample picture."""
    found = parts.studio.find(path)
    if found is None:
        raise NotFound
    file, for_ever = found
    return _serve(request, file, _FOR_EVER if for_ever else _ASK_FIRST, if_none_match)


def _serve(request: Request, file: StudioFile, caching: str, if_none_match: str | None) -> Response:
    headers = {
        "ETag": file.etag,
        "Cache-Control": caching,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    if if_none_match is not None and file.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    if file.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.gzipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.content_type)
    return Response(file.body, headers=headers, media_type=file.content_type)
