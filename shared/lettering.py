"""Short Korean and Latin words in one line, drawn without any installed font.

Latin letters come from the font inside Pillow. It has no Hangul, and a Korean font would be megabytes; the few
syllables that our labels need are drawn here, stroke by stroke.
"""

from collections.abc import Iterable
from functools import cache
from math import cos, pi, sin

from PIL import Image, ImageDraw, ImageFont

Stroke = tuple[tuple[float, float], ...]

_RING: Stroke = tuple((0.5 + 0.27 * cos(step * pi / 16), 0.76 + 0.19 * sin(step * pi / 16)) for step in range(33))
_SIOT: tuple[Stroke, ...] = (((0.29, 0.06), (0.24, 0.28), (0.06, 0.50)), ((0.26, 0.24), (0.47, 0.47)))

# Each syllable in a square of 1 x 1, y downwards: polylines.
_SYLLABLES: dict[str, tuple[Stroke, ...]] = {
    "로": (
        ((0.16, 0.12), (0.84, 0.12), (0.84, 0.34), (0.18, 0.34), (0.18, 0.56), (0.86, 0.56)),
        ((0.50, 0.60), (0.50, 0.84)),
        ((0.04, 0.85), (0.96, 0.85)),
    ),
    "컬": (
        ((0.08, 0.10), (0.46, 0.10), (0.43, 0.26), (0.34, 0.38), (0.08, 0.50)),
        ((0.10, 0.27), (0.42, 0.26)),
        ((0.80, 0.04), (0.80, 0.50)),
        ((0.52, 0.26), (0.80, 0.26)),
        ((0.20, 0.58), (0.80, 0.58), (0.80, 0.75), (0.22, 0.75), (0.22, 0.93), (0.84, 0.93)),
    ),
    "미": (((0.10, 0.18), (0.54, 0.18), (0.54, 0.74), (0.10, 0.74), (0.10, 0.18)), ((0.82, 0.04), (0.82, 0.97))),
    "리": (
        ((0.10, 0.16), (0.55, 0.16), (0.55, 0.44), (0.12, 0.44), (0.12, 0.76), (0.30, 0.76), (0.62, 0.71)),
        ((0.82, 0.04), (0.82, 0.97)),
    ),
    "보": (
        ((0.19, 0.08), (0.19, 0.54), (0.81, 0.54), (0.81, 0.08)),
        ((0.19, 0.30), (0.81, 0.30)),
        ((0.50, 0.55), (0.50, 0.84)),
        ((0.04, 0.85), (0.96, 0.85)),
    ),
    "기": (((0.10, 0.16), (0.54, 0.16), (0.50, 0.42), (0.36, 0.62), (0.10, 0.78)), ((0.82, 0.04), (0.82, 0.97))),
    "생": (
        *_SIOT,
        ((0.60, 0.07), (0.60, 0.50)),
        ((0.60, 0.27), (0.83, 0.27)),
        ((0.83, 0.03), (0.83, 0.54)),
        _RING,
    ),
    "성": (*_SIOT, ((0.56, 0.25), (0.82, 0.25)), ((0.82, 0.03), (0.82, 0.54)), _RING),
}

_FINE = 4  # drawn this much larger, then reduced


@cache
def lettering(words: tuple[str, ...], height_px: int) -> Image.Image:
    """The words beside each other, white on black in one channel; `height_px` is the height of a syllable.

    A word is of Hangul that is drawn here, or of Latin letters.
    """
    size = height_px * _FINE
    advance, gap = size * 1.06, size * 0.42
    font = ImageFont.load_default(size * 1.04)
    lengths = [font.getlength(word) if _is_latin(word) else advance * len(word) for word in words]
    sheet = Image.new("L", (round(sum(lengths) + gap * len(words)) + size, round(size * 1.5)), 0)
    pen = ImageDraw.Draw(sheet)
    x, top = size * 0.2, size * 0.2
    for place, (word, length) in enumerate(zip(words, lengths, strict=True)):
        if _is_latin(word):
            x += gap * 0.7 * (place > 0)
            pen.text((x, top + size * 0.93), word, fill=255, font=font, anchor="ls")
        else:
            x += gap * (place > 0)
            for number, syllable in enumerate(word):
                _draw(pen, _SYLLABLES[syllable], x + advance * number, top, size)
        x += length
    sheet = sheet.crop(sheet.getbbox())
    return sheet.resize((max(1, sheet.width // _FINE), max(1, sheet.height // _FINE)), Image.Resampling.LANCZOS)


def _is_latin(word: str) -> bool:
    return not set(word) & _SYLLABLES.keys()


def _draw(pen: ImageDraw.ImageDraw, strokes: Iterable[Stroke], left: float, top: float, size: int) -> None:
    thickness = max(2, round(size * 0.085))
    r = thickness / 2
    for stroke in strokes:
        points = [(left + x * size, top + y * size) for x, y in stroke]
        pen.line(points, fill=255, width=thickness, joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
