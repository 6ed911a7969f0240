"""The mark that people see: in its corner, legible on light and on dark, on photos made by AI alone."""

from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageStat

from shared.photo_file import PhotoFile, prepare_photo
from shared.visible_mark import mark_visibly
from tests import photos

Box = tuple[int, int, int, int]


def changed(before: Image.Image, after: Image.Image, threshold: int = 24) -> Box:
    """The box of what differs beyond what JPEG does."""
    difference = ImageChops.difference(before, after).convert("L").point(lambda value: 255 * (value > threshold))
    box = difference.getbbox()
    assert box is not None
    return box


def luminance(value: float) -> float:
    """Of a grey, relative (WCAG 2.2)."""
    share = value / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize("size", [(900, 1200), (1536, 2048), (256, 256), (4096, 256)])
@pytest.mark.parametrize("ground", ["white", "black", "#808080", "#f6d8c0"])
def test_it_is_small_and_legible_on_every_ground(size: tuple[int, int], ground: str) -> None:
    plain = Image.new("RGB", size, ground)
    marked = mark_visibly(plain)
    left, top, right, bottom = changed(plain, marked, 0)
    assert left > 0
    assert right < size[0]
    assert bottom < size[1]
    assert top > size[1] * 0.8
    assert (right - left) * (bottom - top) < size[0] * size[1] * 0.06
    assert plain.getcolors() == [(size[0] * size[1], plain.getpixel((0, 0)))]  # it is a copy that was marked
    words = marked.crop((left, top, right, bottom)).convert("L")
    darkest, lightest = words.getextrema()
    assert isinstance(darkest, int)
    assert isinstance(lightest, int)
    assert (luminance(lightest) + 0.05) / (luminance(darkest) + 0.05) >= 4.5


def test_photos_made_by_ai_carry_it_when_it_is_wished() -> None:
    def seen(file: PhotoFile) -> Image.Image:
        with Image.open(BytesIO(file.body)) as picture:
            return picture.convert("RGB")

    def small(file: PhotoFile) -> Image.Image:
        with Image.open(BytesIO(file.thumbnail)) as picture:
            return picture.convert("RGB")

    png = photos.one_face_as("PNG")
    plain = prepare_photo(png, made_by_ai=True)
    marked = prepare_photo(png, made_by_ai=True, marked=True)
    left, top, _, _ = changed(seen(plain), seen(marked))
    assert left > 512 * 0.5
    assert top > 512 * 0.9
    difference = ImageChops.difference(small(plain), small(marked))
    side = difference.width
    corner, rest = difference.crop((side // 2, side * 19 // 20, side, side)), difference.crop((0, 0, side, side // 2))
    assert max(ImageStat.Stat(corner).mean) > 3 * max(1, *ImageStat.Stat(rest).mean)
    # A preview says already what it is, and it is not made by AI.
    preview = prepare_photo(photos.one_face(), made_by_ai=False, marked=True)
    assert preview == prepare_photo(photos.one_face(), made_by_ai=False)
