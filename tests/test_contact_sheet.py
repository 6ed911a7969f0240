"""The contact sheet: every photo whole, in order, captioned, on one calm page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.contact_sheet import WIDTH, contact_sheet

COLOURS = [(200, 40, 40), (40, 160, 60), (40, 60, 200), (220, 180, 30)]
CAPTIONS = ["One", "Two", "Three", "Four"]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(4)]
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.new("RGB", (450, 600), colour).save(path)
    return paths


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_the_photos_stand_side_by_side_in_order(photos: list[Path], tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"sheet{ending}"
    contact_sheet(photos, CAPTIONS, target, title="Classic")
    with Image.open(target) as sheet:
        assert sheet.format == {".jpg": "JPEG", ".png": "PNG"}[ending]
        assert sheet.width == WIDTH
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    row = pixels[pixels.shape[0] // 2]
    widths = []
    starts = []
    for colour in COLOURS:
        columns = np.flatnonzero(np.abs(row - colour).max(axis=1) < 24)
        starts.append(columns.min())
        widths.append(columns.max() - columns.min() + 1)
    assert starts == sorted(starts)
    assert min(widths) > 350
    assert max(widths) - min(widths) <= 2


def test_captions_and_title_are_lettered(photos: list[Path], tmp_path: Path) -> None:
    with_words, without = tmp_path / "words.png", tmp_path / "none.png"
    contact_sheet(photos, CAPTIONS, with_words, title="Classic")
    contact_sheet(photos, [""] * 4, without, title="Classic")
    with Image.open(with_words) as a, Image.open(without) as b:
        changed = np.argwhere(np.asarray(a.convert("L")).astype(int) - np.asarray(b.convert("L")) < -60)
    assert len(changed) > 200
    assert changed[:, 0].min() > 600  # under the photos
    thirds = np.bincount(changed[:, 1] * 4 // WIDTH, minlength=4)
    assert thirds.min() > 20  # one under each


def test_a_photo_of_another_shape_is_not_distorted(photos: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (600, 450), COLOURS[0]).save(photos[0])
    target = tmp_path / "sheet.png"
    contact_sheet(photos, CAPTIONS, target)
    with Image.open(target) as sheet:
        found = np.argwhere(np.abs(np.asarray(sheet.convert("RGB")).astype(int) - COLOURS[0]).max(axis=2) < 12)
    height, width = found.max(axis=0) - found.min(axis=0) + 1
    assert width / height == pytest.approx(600 / 450, rel=0.02)


def test_captions_must_match_the_photos(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="caption"):
        contact_sheet(photos, CAPTIONS[:3], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="photos"):
        contact_sheet(photos[:1], CAPTIONS[:1], tmp_path / "sheet.png")
