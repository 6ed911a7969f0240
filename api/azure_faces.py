"""The face check by Azure Face, through its own SDK with our own rules about time and retries."""

import math
import re
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from azure.ai.vision.face.aio import FaceClient
from azure.ai.vision.face.models import FaceDetectionModel, FaceRecognitionModel
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import AzureError, ServiceResponseTimeoutError
from azure.core.pipeline.transport import AioHttpTransport

from api.face_budget import FaceBudget
from api.faces import FaceBox, FaceVerdict, judge
from shared.errors import FaceCheckUnavailable
from shared.settings import Settings

# The published stable version (azure-rest-api-specs, Face stable/v1.2); by itself the SDK asks for a preview of it.
API_VERSION = "v1.2"
SMALLEST_BYTES = 1024  # Azure docs: Face, input requirements
LARGEST_BYTES = 6 * 1024 * 1024
LONGEST_PAUSE_SECONDS = 2.0  # a user is waiting: what asks for more is answered with 503 and a Retry-After
SHORTEST_PAUSE_SECONDS = 0.2
RETRY_AFTER_SECONDS = 10  # our guess, where the vendor gives none

_TRANSIENT = {500, 502, 503, 504}
_RETRY_AFTER_IN_TEXT = re.compile(r"retry after (\d+) second", re.IGNORECASE)  # the vendor's sentence in a 429

log = structlog.get_logger()


@dataclass(eq=False)
class _Trouble(Exception):
    """One call that brought no list of faces."""

    status: int | None  # None: no answer came
    message: str
    retry_after_seconds: float | None  # as the vendor said
    timed_out: bool = False

    def pause_seconds(self) -> float | None:
        """After how long a second call may do better; None: it would not, or not soon enough."""
        if self.timed_out:
            return None
        if self.status is None or self.status in _TRANSIENT:
            pause = self.retry_after_seconds or SHORTEST_PAUSE_SECONDS
        elif self.status == 429 and self.retry_after_seconds is not None:
            pause = max(self.retry_after_seconds, SHORTEST_PAUSE_SECONDS)
        else:
            return None
        return pause if pause <= LONGEST_PAUSE_SECONDS else None


class AzureFaceChecker:
    """Asks detection_03 for rectangles only: no face ids and no attributes, so no approval of Microsoft's is needed.

    A check makes at most two calls, each in its turn of the budget, and takes at most twice
    `azure_face_timeout_seconds` from its first turn on. The smallest face that
    Azure sees is 36 x 36 pixels in a picture of up to 1920 x 1080, and proportionally larger beyond (Azure docs:
    detection models); a picture with smaller faces only has none.

    To be used in one event loop: the connections belong to the loop of the first check.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.azure_face_endpoint is None or settings.azure_face_api_key is None:
            raise ValueError("AzureFaceChecker needs azure_face_endpoint and azure_face_api_key")
        seconds = settings.azure_face_timeout_seconds
        self._longest_seconds = 2 * seconds
        self._budget = FaceBudget(settings)
        self._client = FaceClient(
            # The portal shows the endpoint with a slash at its end, and the SDK would make `//face/...` of it.
            settings.azure_face_endpoint.rstrip("/"),
            AzureKeyCredential(settings.azure_face_api_key.get_secret_value()),
            api_version=API_VERSION,
            # Portraits go to the named endpoint and nowhere else: no proxy from the environment, and no redirect,
            # which the SDK would follow with the key in its header.
            transport=AioHttpTransport(connection_timeout=seconds, read_timeout=seconds, use_env_settings=False),
            permit_redirects=False,
            retry_total=0,  # the SDK would sleep as long as any Retry-After says, while a user waits
        )

    async def check(self, jpeg: bytes, width: int, height: int) -> FaceVerdict:
        if len(jpeg) < SMALLEST_BYTES:
            return FaceVerdict.NONE  # Azure takes no such file, and one this small holds no face that it would see
        if len(jpeg) > LARGEST_BYTES:
            log.error("face_check.rejected", size_bytes=len(jpeg), reason="larger than Azure Face takes")
            raise FaceCheckUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS)
        await self._wait_for_turn()
        try:
            # The SDK's own limits do not bound a whole call: each is for one wait, however many there are.
            with anyio.fail_after(self._longest_seconds):
                faces = await self._detect(jpeg)
        except TimeoutError as error:
            trouble = _Trouble(None, f"no answer within {self._longest_seconds:g} s", None, timed_out=True)
            raise _refusal(trouble) from error
        except _Trouble as trouble:
            raise _refusal(trouble) from trouble
        main = max(faces, key=lambda face: face.area, default=None)
        return judge(main, [face for face in faces if face is not main], width, height)

    async def close(self) -> None:
        await self._client.close()
        await self._budget.close()

    async def _detect(self, jpeg: bytes) -> list[FaceBox]:
        """Ask, and once more where that may help. Asking twice is harmless: nothing is stored there."""
        try:
            return await self._ask(jpeg)
        except _Trouble as trouble:
            pause = trouble.pause_seconds()
            if pause is None:
                raise
            log.info("face_check.retried", status=trouble.status, reason=trouble.message, pause_seconds=pause)
        await anyio.sleep(pause)
        await self._wait_for_turn()
        return await self._ask(jpeg)

    async def _wait_for_turn(self) -> None:
        """Raises FaceCheckUnavailable when our turn is further away than a user waits."""
        await anyio.sleep(await self._budget.turn())

    async def _ask(self, jpeg: bytes) -> list[FaceBox]:
        answer: list[Any] = []  # noted before the SDK decodes it: what is not JSON loses its status on the way out
        try:
            found = await self._client.detect(
                jpeg,
                detection_model=FaceDetectionModel.DETECTION03,
                recognition_model=FaceRecognitionModel.RECOGNITION04,
                return_face_id=False,
                raw_response_hook=lambda response: answer.append(response.http_response),
            )
            return _boxes(found)
        except (AzureError, ValueError, TypeError, AttributeError) as error:
            response = answer[-1] if answer else None
            message = str(getattr(error, "message", error))[:300]
            trouble = _Trouble(
                response.status_code if response is not None else None,
                message,
                _retry_after_seconds(response.headers.get("Retry-After") if response is not None else None, message),
                timed_out=isinstance(error, ServiceResponseTimeoutError),
            )
            if trouble.status == 429:
                await self._budget.penalise(trouble.retry_after_seconds or RETRY_AFTER_SECONDS)
            raise trouble from error


def _boxes(found: Any) -> list[FaceBox]:
    """The SDK hands on whatever JSON it was sent. Raises TypeError or AttributeError for anything but faces."""
    if not isinstance(found, list):
        raise TypeError(f"expected a list of faces, got {type(found).__name__}")
    boxes = []
    for face in found:
        box = face.face_rectangle
        boxes.append(FaceBox(float(box.left), float(box.top), float(box.width), float(box.height)))
    return boxes


def _retry_after_seconds(header: str | None, message: str) -> float | None:
    """From the header, or else from the sentence; a date in the header counts as no answer."""
    if header is not None and header.strip().isdecimal():
        return float(header)
    found = _RETRY_AFTER_IN_TEXT.search(message)
    return float(found[1]) if found else None


def _refusal(trouble: _Trouble) -> FaceCheckUnavailable:
    """Log what happened, for those who can mend it, and say to the user when to come back."""
    status = trouble.status
    if status in {401, 403, 404} or (status is not None and 300 <= status < 400):
        log.error(
            "face_check.denied",
            status=status,
            reason=trouble.message,
            advice="AZURE_FACE_ENDPOINT and AZURE_FACE_API_KEY must be those of one Face resource; see its page "
            "Keys and Endpoint, and that its firewall lets this host in",
        )
    elif status == 429:
        log.warning("face_check.throttled", reason=trouble.message, retry_after_seconds=trouble.retry_after_seconds)
    elif status is not None and 400 <= status < 500 and status != 408:
        # The portrait was decoded and written by us, so this is a fault of ours and not of the picture.
        log.error("face_check.rejected", status=status, reason=trouble.message)
    else:
        log.warning("face_check.failed", status=status, reason=trouble.message)
    return FaceCheckUnavailable(retry_after_seconds=math.ceil(trouble.retry_after_seconds or RETRY_AFTER_SECONDS))
