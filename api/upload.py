"""A submission as it comes over the wire: its form, bounded by what a picture may weigh."""

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.bounded_body import bounded_receive
from shared.errors import FileTooLarge, InvalidRequest, MissingField, UnknownRole, UnknownStyle
from shared.styles import Role, Style

# What a form may weigh beside the picture: boundaries, headers, the short fields.
FORM_OVERHEAD_BYTES = 64 * 1024
IDEMPOTENCY_KEY_MAX = 255


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user asks for, as received; the picture is not yet decoded."""

    image: bytes
    style: Style
    role: Role | None
    idempotency_key: str | None


async def receive_submission(request: Request, max_bytes: int) -> Submission:
    """Read the multipart form `image`, `style` and optionally `role`.

    Raises:
        FileTooLarge: the picture has more than `max_bytes`.
        MissingField, UnknownStyle, UnknownRole, InvalidRequest: the form is not what it should be.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= IDEMPOTENCY_KEY_MAX:
        raise InvalidRequest(fields=["Idempotency-Key"])
    form = await _bounded_form(request, max_bytes)
    try:
        image = form.get("image")
        style = form.get("style")
        role = form.get("role") or None
        if not isinstance(image, UploadFile):
            raise MissingField(field="image")
        if not isinstance(style, str) or not style:
            raise MissingField(field="style")
        if style not in set(Style):
            raise UnknownStyle(known=[known.value for known in Style])
        if role is not None and role not in set(Role):
            raise UnknownRole(known=[known.value for known in Role])
        body = await image.read()
    finally:
        await form.close()
    if len(body) > max_bytes:
        raise FileTooLarge(max_bytes=max_bytes)
    if not body:
        raise MissingField(field="image")
    return Submission(body, Style(style), Role(role) if role else None, key)


async def _bounded_form(request: Request, max_bytes: int) -> FormData:
    try:
        receive = bounded_receive(request, max_bytes + FORM_OVERHEAD_BYTES, max_bytes)
        return await Request(request.scope, receive).form(max_files=1, max_fields=10)
    except HTTPException as error:  # Starlette's word for a malformed multipart body
        raise InvalidRequest(reason=error.detail) from error
