"""News from the provider. A hint to look at a prediction now instead of at the next check, and nothing more."""

from typing import Annotated
from uuid import UUID

import structlog
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, StringConstraints, ValidationError

from api.bounded_body import bounded_body
from api.dependencies import PartsDep
from shared.metrics import WEBHOOKS

# A prediction with its logs is some kilobytes; a picture inside it (a `data:` address) some hundred.
WEBHOOK_MAX_BYTES = 5 * 1024 * 1024

log = structlog.get_logger()
router = APIRouter(tags=["webhooks"])


class _News(BaseModel):
    """All that is read of a webhook's body; the id becomes part of an address."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,64}$")]


@router.post("/webhooks/replicate", status_code=204)
async def replicate_webhook(request: Request, parts: PartsDep, photo: UUID) -> Response:
    """Signed by the provider, or 401. Answers 204 when the photo is gone too: there is nothing the sender could do.

    What the body says is not believed, only that something happened: the worker asks the provider itself. The
    prediction that it names is how an attempt finds its own whose create call's answer was lost.
    """
    body = await bounded_body(request, WEBHOOK_MAX_BYTES)
    webhook_id = parts.webhooks.check(body, request.headers)
    new = await parts.webhooks.is_new(webhook_id)
    WEBHOOKS.labels("new" if new else "repeated").inc()
    if new:
        told = await to_thread.run_sync(parts.queue.collect_on_news, photo, _named_in(body))
        log.info("webhook.received", photo_id=str(photo), webhook_id=webhook_id, told=told)
    return Response(status_code=204)


def _named_in(body: bytes) -> str | None:
    try:
        return _News.model_validate_json(body).id
    except ValidationError:
        return None
