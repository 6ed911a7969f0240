"""A submission as it comes over the wire: its form, bounded by what a picture may weigh."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.bounded_body import bounded_receive
from shared.errors import FileTooLarge, InvalidRequest, MissingField, RateLimited, UnknownRole, UnknownStyle
from shared.styles import Role, Style

# What a form may weigh beside the picture: boundaries, headers, the short fields.
FORM_OVERHEAD_BYTES = 64 * 1024
IDEMPOTENCY_KEY_MAX = 255
# One submission takes about this long.
AGAIN_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user asks for, as received: a picture, not yet decoded, or the job whose portrait is to be used again."""

    image: bytes | UUID
    style: Style
    role: Role | None
    idempotency_key: str | None
    consent: str | None = None  # the version of the text that was agreed to


class UploadsAtOnce:
    """Of one user only `limit` are received and looked at side by side, for each holds its picture in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[UUID] = Counter()

    @contextmanager
    def one_of(self, user_id: UUID) -> Iterator[None]:
        """Raises RateLimited; to be entered before the body is read."""
        if self._running[user_id] >= self._limit:
            raise RateLimited(limit=self._limit, retry_after_seconds=AGAIN_SECONDS)
        self._running[user_id] += 1
        try:
            yield
        finally:
            self._running[user_id] -= 1
            if not self._running[user_id]:
                del self._running[user_id]


async def receive_submission(request: Request, max_bytes: int) -> Submission:
    """Read the multipart form `image` (or `portrait_of`), `style` and optionally `role` and `consent`.

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
        portrait_of = form.get("portrait_of") or None
        style = form.get("style")
        role = form.get("role") or None
        consent = form.get("consent") or None
        if portrait_of is None and not isinstance(image, UploadFile):
            raise MissingField(field="image")
        if portrait_of is not None and image is not None:
            raise InvalidRequest(fields=["image", "portrait_of"])
        if not isinstance(style, str) or not style:
            raise MissingField(field="style")
        if style not in set(Style):
            raise UnknownStyle(known=[known.value for known in Style])
        if role is not None and role not in set(Role):
            raise UnknownRole(known=[known.value for known in Role])
        if consent is not None and not isinstance(consent, str):
            raise InvalidRequest(fields=["consent"])
        body = await image.read() if isinstance(image, UploadFile) else _job_id(portrait_of)
    finally:
        await form.close()
    if isinstance(body, bytes):
        if len(body) > max_bytes:
            raise FileTooLarge(max_bytes=max_bytes)
        if not body:
            raise MissingField(field="image")
    return Submission(body, Style(style), Role(role) if role else None, key, consent)


def _job_id(word: object) -> UUID:
    try:
        return UUID(str(word))
    except ValueError as error:
        raise InvalidRequest(fields=["portrait_of"]) from error


async def _bounded_form(request: Request, max_bytes: int) -> FormData:
    # The other kind of form has no pictures, and 10 MB of `&` in it hold up the loop for two seconds (measured).
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return FormData()
    receive = bounded_receive(request, max_bytes + FORM_OVERHEAD_BYTES, max_bytes)
    try:
        stream = Request(request.scope, receive).stream()
        return await _FormInMemory(request.headers, stream, max_files=1, max_fields=10).parse()
    except MultiPartException as error:
        raise InvalidRequest(reason=error.message) from error


class _FormInMemory(MultiPartParser):
    """Starlette's own would write every picture over 1 MB to the disk, and change threads for each piece of it."""

    spool_max_size = sys.maxsize  # what comes is bounded
