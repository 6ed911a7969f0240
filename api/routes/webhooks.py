"""News from the provider. A hint to look at a prediction now instead of at the next check, and nothing more."""

from uuid import UUID

import structlog
from anyio import to_thread
from fastapi import APIRouter, Request, Response

from api.bounded_body import bounded_body
from api.dependencies import PartsDep

# A prediction with its logs is some kilobytes; a picture inside it (a `data:` address) some hundred.
WEBHOOK_MAX_BYTES = 5 * 1024 * 1024

log = structlog.get_logger()
router = APIRouter(tags=["webhooks"])


@router.post("/webhooks/replicate", status_code=204)
async def replicate_webhook(request: Request, parts: PartsDep, photo: UUID) -> Response:
    """Signed by the provider, or 401. Answers 204 when the photo is gone too: there is nothing the sender could do.

    What the body says is not believed, only that something happened: the worker asks the provider itself.
    """
    webhook_id = parts.webhooks.check(await bounded_body(request, WEBHOOK_MAX_BYTES), request.headers)
    if await parts.webhooks.is_new(webhook_id):
        told = await to_thread.run_sync(lambda: parts.queue.collect_photos([photo], hinted=True))
        log.info("webhook.received", photo_id=str(photo), webhook_id=webhook_id, told=told)
    return Response(status_code=204)
