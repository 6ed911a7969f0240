"""The preview pictures: never broken, told apart at a glance, always honest about what they are."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from shared.styles import Style
from worker.preview.compose import render_preview
from worker.preview.flowers import Tint
from worker.preview.framing import Face, assumed_face, frame
from worker.preview.garlands import Flora, FlowerLayer, garland
from worker.preview.lettering import LABEL_EN, LABEL_KO, label, write_label
from worker.preview.windows import FACE_X, FACE_Y, WINDOWS, Window

Pixels = np.ndarray[Any, Any]

SAMPLE = Path(__file__).parent.parent / "cli" / "sample" / "astronaut.jpg"
SAMPLE_FACE = Face(179, 64, 91, 110)  # of the 512 x 512 sample, as the detector finds it


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    with Image.open(SAMPLE) as picture:
        return np.asarray(picture.convert("RGB"))


def small(jpeg: bytes) -> Pixels:
    """The photo reduced to what one sees at a glance."""
    with Image.open(io.BytesIO(jpeg)) as photo:
        assert photo.format == "JPEG"
        assert photo.size == (900, 1200)
        return np.asarray(photo.convert("RGB").resize((90, 120))).astype(float)


def test_styles_and_slots_can_be_told_apart_at_a_glance(portrait: Pixels) -> None:
    by_style = [small(render_preview(portrait, SAMPLE_FACE, style, 0, 7)) for style in Style]
    by_slot = [small(render_preview(portrait, SAMPLE_FACE, Style.CLASSIC, slot, 7)) for slot in (1, 2, 3)]
    for photos in (by_style, [by_style[0], *by_slot]):
        for i, one in enumerate(photos):
            for other in photos[i + 1 :]:
                assert np.abs(one - other).mean() > 14


def test_the_same_seed_gives_the_same_bytes_on_every_thread(portrait: Pixels) -> None:
    def render(seed: int) -> bytes:
        return render_preview(portrait, SAMPLE_FACE, Style.MODERN, 2, seed)

    with ThreadPoolExecutor(3) as threads:
        one, same, other = threads.map(render, (5, 5, 6))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("size", "face"),
    [
        pytest.param((1, 1), None, id="one-pixel"),
        pytest.param((300, 400), Face(-20, 30, 90, 110), id="face-over-the-edge"),
        pytest.param((2048, 400), None, id="panorama"),
    ],
)
def test_hardly_usable_portraits_still_make_a_photo(size: tuple[int, int], face: Face | None) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert small(render_preview(pixels, face, Style.CINEMATIC, 1, 3)).std() > 10


@pytest.mark.parametrize("window", WINDOWS)
def test_a_roomy_portrait_has_its_face_in_the_middle_at_42_percent(window: Window) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1600, 1400, 3), np.uint8)
    framed = frame(pixels, Face(600, 500, 200, 250), window)
    x, y = framed.face.middle
    assert window.left + x == pytest.approx(FACE_X, abs=3)
    assert window.top + y == pytest.approx(FACE_Y, abs=3)
    assert framed.face.height == pytest.approx(window.face_height, rel=0.02)


def test_a_plain_wall_is_continued_above_a_tight_crop() -> None:
    pixels = np.full((500, 400, 3), 215, np.uint8)
    pixels[60:, 120:280] = (90, 60, 50)
    framed = frame(pixels, Face(130, 80, 140, 180), WINDOWS[0])
    assert WINDOWS[0].top + framed.face.middle[1] == pytest.approx(FACE_Y, abs=4)
    assert np.abs(framed.picture[:40].astype(int) - 215).max() <= 3


def test_a_cut_off_head_stays_at_the_windows_edge() -> None:
    """Where the photo cuts the person off, the frame must do it, not the middle of the window."""
    pixels = np.random.default_rng(1).integers(0, 255, (500, 400, 3), np.uint8)
    pixels[0] = (255, 0, 255)
    pixels[1:3] = (255, 0, 255)
    framed = frame(pixels, Face(130, 0, 140, 120), WINDOWS[3])
    assert framed.picture[0, :, 0].min() > 200
    assert framed.picture[0, :, 1].max() < 60


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    place=st.tuples(st.floats(-0.2, 1), st.floats(-0.2, 1), st.floats(0.02, 1.2)),
    window=st.sampled_from(WINDOWS),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_the_window_is_always_filled(
    width: int, height: int, place: tuple[float, float, float], window: Window
) -> None:
    pixels = np.full((height, width, 3), 77, np.uint8)
    side = max(1.0, place[2] * min(width, height))
    framed = frame(pixels, Face(place[0] * width, place[1] * height, 0.8 * side, side), window)
    assert framed.picture.shape == (round(window.bottom - window.top), round(window.right - window.left), 3)
    assert np.abs(framed.picture.astype(int) - 77).max() <= 2


def test_without_a_face_the_middle_is_assumed() -> None:
    x, y = assumed_face(600, 800).middle
    assert x == 300
    assert y == pytest.approx(320)


def test_no_flower_is_laid_on_the_face() -> None:
    tint = Tint((0.2, 0, 0), (0.6, 0.2, 0.2), (1, 0.9, 0.9))
    flora = Flora([("rose", tint)], [("rose", tint)], [("plum", tint)], [("olive", tint)], (0.3, 0.2, 0.1))
    layer = FlowerLayer(900, 1200, (450, 500, 150))
    garland(layer, np.random.default_rng(2), flora, np.array([[100.0, 500.0], [800.0, 500.0]]), 0.5)
    cover = layer.pixels[..., 3]
    assert cover.max() > 0.9
    assert cover[440:560, 390:510].max() == 0


def test_every_photo_says_that_it_is_a_preview(portrait: Pixels) -> None:
    with Image.open(io.BytesIO(render_preview(portrait, SAMPLE_FACE, Style.ROMANTIC, 3, 1))) as photo:
        comment = photo.info["comment"].decode()
    assert LABEL_EN in comment
    assert LABEL_KO in comment
    for ground in (0.05, 0.95):
        plain = np.full((1200, 900, 3), ground, np.float32)
        write_label(plain, bottom=1174)
        lettered = plain[1120:1180, 250:650]
        assert lettered.max() - np.median(plain[1150:1152, 330:340]) > 0.25  # it can be read on dark and on light
        assert np.all(plain[:1100] == np.float32(ground))


def test_the_label_has_all_of_its_letters() -> None:
    """Six syllables and a Latin half: as many separate columns of ink as there are letters, at the least."""
    ink = label(40).max(axis=0) > 0.2
    runs = np.count_nonzero(np.diff(ink.astype(int)) == 1)
    assert runs >= 6 + len(LABEL_EN.replace(" ", "")) - 3
