"""Four photos side by side on one sheet, as a photographer hands them over."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH = 1800  # pixels
_SCALE = 2  # captions and lines are drawn larger and reduced, so that they stay fine

_GROUND = (250, 246, 238)
_LINE = (190, 164, 116)
_INK = (92, 80, 64)

_MARGIN, _GAP, _FRAME = 72, 30, 10
_TITLE_HEIGHT, _CAPTION_HEIGHT, _FOOT = 118, 58, 44


def contact_sheet(photos: Sequence[Path], captions: Sequence[str], target: Path, *, title: str = "") -> None:
    """Write one picture, 1800 pixels wide, that shows the photos in a row with a caption under each.

    Args:
        photos: two to six picture files of about the same shape; each is shown whole.
        captions: one for each photo, in Latin letters: the lettering is Pillow's own and knows no others.
        target: where to write; the ending says the format, .jpg or .png.
        title: a line above the photos.

    Raises:
        ValueError: there are not two to six photos, not as many captions, or the ending names no picture format.
        OSError: a photo cannot be read or the sheet not written.
    """
    if not 2 <= len(photos) <= 6 or len(captions) != len(photos):
        raise ValueError(f"two to six photos with a caption each, not {len(photos)} with {len(captions)}")
    cell = (WIDTH - 2 * _MARGIN - _GAP * (len(photos) - 1)) // len(photos)
    prints = [_print(path, cell - 2 * _FRAME) for path in photos]
    row = max(picture.height for picture in prints) + 2 * _FRAME
    top = _TITLE_HEIGHT if title else _MARGIN
    sheet = Image.new("RGB", (WIDTH, top + row + _CAPTION_HEIGHT + _FOOT), _GROUND)
    lefts = [_MARGIN + i * (cell + _GAP) for i in range(len(prints))]

    shade = Image.new("L", sheet.size, 0)
    for left in lefts:
        shade.paste(70, (left + 3, top + 8, left + cell - 3, top + row + 4))
    shade = shade.filter(ImageFilter.GaussianBlur(9))
    sheet.paste((120, 100, 70), (0, 0), shade)
    for left, picture in zip(lefts, prints, strict=True):
        sheet.paste((255, 254, 251), (left, top, left + cell, top + row))
        sheet.paste(picture, (left + _FRAME, top + (row - picture.height) // 2))

    _letter(sheet, lefts, cell, top, row, captions, title)
    if target.suffix.lower() in (".jpg", ".jpeg"):
        sheet.save(target, "JPEG", quality=91, subsampling=0)
    else:
        sheet.save(target)


def _print(path: Path, width: int) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB").resize(
            (width, round(width * photo.height / photo.width)), Image.Resampling.LANCZOS, reducing_gap=3.0
        )


def _letter(
    sheet: Image.Image, lefts: Sequence[int], cell: int, top: int, row: int, captions: Sequence[str], title: str
) -> None:
    ink = Image.new("L", (sheet.width * _SCALE, sheet.height * _SCALE), 0)
    pen = ImageDraw.Draw(ink)
    for left, caption in zip(lefts, captions, strict=True):
        _spaced(pen, (left + cell / 2, top + row + 36), caption, size=19, spacing=1.2, strength=220)
    if title:
        half = _spaced(pen, (WIDTH / 2, 62), title.upper(), size=25, spacing=7.0, strength=255) / 2
        for side in (-1, 1):
            near, far = WIDTH / 2 + side * (half + 34), WIDTH / 2 + side * (WIDTH / 2 - _MARGIN)
            _line(sheet, (near, 62, far, 62))
    ink = ink.resize(sheet.size, Image.Resampling.LANCZOS)
    sheet.paste(_INK, (0, 0), ink)
    edge = 22
    ImageDraw.Draw(sheet).rectangle((edge, edge, sheet.width - edge - 1, sheet.height - edge - 1), outline=_LINE)


def _line(sheet: Image.Image, ends: tuple[float, float, float, float]) -> None:
    ImageDraw.Draw(sheet).line(ends, fill=_LINE, width=1)


def _spaced(
    pen: ImageDraw.ImageDraw, middle: tuple[float, float], words: str, *, size: int, spacing: float, strength: int
) -> float:
    """Letter `words` around `middle` with `spacing` between the letters; returns their width. All in sheet pixels."""
    font = ImageFont.load_default(size * _SCALE)
    widths = [font.getlength(letter) / _SCALE + spacing for letter in words]
    total = sum(widths) - spacing
    x = middle[0] - total / 2
    for letter, width in zip(words, widths, strict=True):
        pen.text((x * _SCALE, middle[1] * _SCALE), letter, fill=strength, font=font, anchor="lm")
        x += width
    return total
