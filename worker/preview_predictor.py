"""The predictor that needs no account and no network: previews drawn on this machine, honest about what they are.

Each prediction is two files in `data_dir/previews`: the photo, and beside it what a provider would know about it.
The second is written last and whole, so a crash at any moment leaves either a prediction that `find` and `fetch` can
tell the truth about, or none.
"""

import io
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import structlog
from PIL import Image

from shared.face_detector import DetectedFace, FaceDetector, FaceDetectorUnavailable, opencv_is_installed
from shared.settings import Settings
from shared.styles import VARIATIONS, Style
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState

KEPT_FOR = timedelta(hours=1)  # as long as Replicate keeps outputs (Replicate docs: data retention)

_ADDRESS = "preview://"
_ID = re.compile(r"preview-[0-9a-f]{48}")
_SWEEP_EVERY_SECONDS = 60.0
# Memory that was used once stays with its thread: 16 threads that each rendered held 515 MB, two of our own 335, and
# four were no quicker than two (measured on two cores).
_THREADS = 2
_TURN_SECONDS = 8.0  # 16 renders are through in 6; whoever waits longer should come back before the lease ends
_BUSY_AGAIN_SECONDS = 1.0
_DISK_AGAIN_SECONDS = 5.0
# The database's clock says when an attempt began, ours when a prediction did.
_CLOCK_SLACK = timedelta(seconds=5)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written beside a preview."""

    attempt_id: str
    seed: int
    created_at: str  # RFC 3339, UTC
    seconds: float
    canceled: bool = False


class PreviewPredictor:
    """Draws the photo inside `start`. Its predictions cost nothing.

    With `preview_seconds` above 0 a prediction stays RUNNING until that long after it was created, so that progress
    can be watched as with a real provider.
    """

    name = "preview"
    model = "preview"

    def __init__(self, settings: Settings) -> None:
        if not opencv_is_installed():
            raise ModuleNotFoundError("PREDICTOR=preview draws with OpenCV: install the optional group `embedded`")
        self._folder = settings.data_dir / "previews"
        self._delay = timedelta(seconds=settings.preview_seconds)
        self._detector = _open_detector(settings.face_model_path)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="preview")
        self._next_sweep = 0.0  # monotonic; two threads that sweep at once do no harm

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never:
        """Render the photo. Raises what the order's own calls raise."""
        if order.style not in Style.__members__ or not 0 <= order.slot < VARIATIONS:
            return Never("bad_input", f"there is no look for style {order.style}, slot {order.slot}")
        body = order.read_portrait()
        order.before_paying()
        rendering = self._threads.submit(self._render, body, order)
        try:
            wait([rendering], timeout=_TURN_SECONDS)
            if rendering.cancel():  # its turn has not come
                return NotYet(_BUSY_AGAIN_SECONDS, "other previews are being rendered")
            photo, seconds = rendering.result()
        except (OSError, Image.DecompressionBombError) as error:  # Pillow: not a JPEG, or cut short
            return Never("bad_input", f"the portrait cannot be read: {error}")
        record = _Record(
            attempt_id=str(order.attempt_id),
            seed=order.seed,
            created_at=datetime.now(UTC).isoformat(),
            seconds=seconds,
        )
        prediction_id = f"preview-{order.attempt_id.hex}{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            _write_whole(self._photo_path(prediction_id), photo)
            self._write_record(prediction_id, record)
        except OSError as error:
            return NotYet(_DISK_AGAIN_SECONDS, f"the preview cannot be written to {self._folder}: {error.strerror}")
        return self._prediction(prediction_id, record)

    def fetch(self, prediction_id: str) -> Prediction | Gone:
        record = self._read_record(prediction_id)
        if record is None:
            return Gone(f"there is no preview {prediction_id}, or it was removed after an hour")
        return self._prediction(prediction_id, record)

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction]:
        found = []
        for path in self._folder.glob(f"preview-{attempt_id.hex}*.json"):
            record = self._read_record(path.stem)
            if record is not None and record.seed == seed:
                prediction = self._prediction(path.stem, record)
                if prediction.created_at >= created_after - _CLOCK_SLACK:
                    found.append(prediction)
        return sorted(found, key=lambda prediction: prediction.created_at)

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        record = self._read_record(prediction_id)
        fits = record is not None and (record.attempt_id, record.seed) == (str(attempt_id), seed)
        return self._prediction(prediction_id, record) if record is not None and fits else None

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        answer = self.fetch(prediction_id)
        record = self._read_record(prediction_id)
        if record is None or not isinstance(answer, Prediction) or answer.state is not PredictionState.RUNNING:
            return answer
        record = _Record(**{**asdict(record), "canceled": True})
        try:
            self._write_record(prediction_id, record)
        except OSError as error:
            return NotYet(_DISK_AGAIN_SECONDS, f"the preview's record cannot be written: {error.strerror}")
        return self._prediction(prediction_id, record)

    def read_output(self, address: str) -> bytes | Gone:
        prediction_id = address.removeprefix(_ADDRESS)
        if not address.startswith(_ADDRESS) or not _ID.fullmatch(prediction_id):
            return Gone(f"{address} is not the address of a preview")
        try:
            return self._photo_path(prediction_id).read_bytes()
        except OSError:
            return Gone(f"the preview {prediction_id} was removed after an hour")

    def probe(self) -> str:
        """Render one photo in memory and touch the folder."""
        began = time.perf_counter()
        try:
            _draw(Image.new("RGB", (300, 400), (160, 160, 160)), None, Style.CLASSIC, 0, 1)
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_whole(self._folder / f".probe-{secrets.token_hex(8)}", b"").unlink()
        except OSError as error:
            raise ConnectionError(
                f"{self._folder} cannot be written to ({error.strerror}): make it writable, or name another DATA_DIR"
            ) from error
        took = f"renders a preview in {time.perf_counter() - began:.1f} s, keeps it in {self._folder}"
        return f"{took}; faces are {'looked for' if self._detector else 'taken to be in the middle: no face model'}"

    def _render(self, body: bytes, order: PredictionOrder) -> tuple[bytes, float]:
        """The photo, and how many seconds it took."""
        began = time.perf_counter()
        with Image.open(io.BytesIO(body), formats=["JPEG"]) as picture:
            portrait = picture.convert("RGB")
        face = self._face(portrait)
        photo = _draw(portrait, face, Style[order.style], order.slot, order.seed)
        return photo, round(time.perf_counter() - began, 3)

    def _face(self, portrait: Image.Image) -> DetectedFace | None:
        if self._detector is None:
            return None
        try:
            faces = self._detector.detect(portrait)
        except FaceDetectorUnavailable as error:
            log.warning("preview.face_not_sought", reason=str(error))
            return None
        return faces[0] if faces else None

    def _prediction(self, prediction_id: str, record: _Record) -> Prediction:
        created_at = datetime.fromisoformat(record.created_at)
        if record.canceled:
            return Prediction(prediction_id, PredictionState.CANCELED, created_at, cost_usd=Decimal(0))
        if datetime.now(UTC) < created_at + self._delay:
            return Prediction(prediction_id, PredictionState.RUNNING, created_at)
        return Prediction(
            prediction_id,
            PredictionState.SUCCEEDED,
            created_at,
            output=(_ADDRESS + prediction_id,),
            cost_usd=Decimal(0),
            seconds=max(record.seconds, self._delay.total_seconds()),
        )

    def _photo_path(self, prediction_id: str) -> Path:
        return self._folder / f"{prediction_id}.jpg"

    def _write_record(self, prediction_id: str, record: _Record) -> None:
        _write_whole(self._folder / f"{prediction_id}.json", json.dumps(asdict(record)).encode())

    def _read_record(self, prediction_id: str) -> _Record | None:
        if not _ID.fullmatch(prediction_id):
            return None
        try:
            return _Record(**json.loads((self._folder / f"{prediction_id}.json").read_bytes()))
        except (OSError, ValueError, TypeError):  # removed, or torn by a power cut: nothing that can be told
            return None

    def _sweep(self) -> None:
        """Remove what is older than an hour, also what a crash left half written."""
        if time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + _SWEEP_EVERY_SECONDS
        oldest = (datetime.now(UTC) - KEPT_FOR).timestamp()
        for path in _files(self._folder):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # another process sweeps too
                continue


def _draw(portrait: Image.Image, face: DetectedFace | None, style: Style, slot: int, seed: int) -> bytes:
    # Here, not above: OpenCV and the drawing are 15 MB, which a worker that has not drawn yet does without (measured).
    import numpy as np  # noqa: PLC0415

    from worker.preview.compose import render_preview  # noqa: PLC0415
    from worker.preview.framing import Face  # noqa: PLC0415

    main = Face(face.left, face.top, face.width, face.height) if face else None
    return render_preview(np.asarray(portrait), main, style, slot, seed)


def _open_detector(model_path: Path | None) -> FaceDetector | None:
    try:
        return FaceDetector(model_path)
    except FaceDetectorUnavailable as error:
        log.warning("preview.faces_unavailable", reason=str(error))
        return None


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield Path(entry.path)


def _write_whole(path: Path, body: bytes) -> Path:
    """Readers see the old file or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    unfinished.write_bytes(body)
    return unfinished.replace(path)
