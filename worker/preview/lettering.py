"""The honest label on every preview, drawn without any installed font.

Latin letters come from the font inside Pillow. It has no Hangul, and a Korean font would be megabytes, but every
letter in "로컬 미리보기" is made of straight strokes: those are drawn here.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.preview.flowers import Pixels
from worker.preview.windows import Plane

LABEL_KO = "로컬 미리보기"
LABEL_EN = "Local preview"

Stroke = tuple[tuple[float, float], ...]

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
}

_FINE = 4  # drawn this much larger, then reduced


@cache
def label(height_px: int) -> Plane:
    """Both words in one line, 0..1; `height_px` is the height of a syllable."""
    size = height_px * _FINE
    thickness = max(2, round(size * 0.085))
    advance, gap = size * 1.06, size * 0.42
    font = ImageFont.load_default(size * 1.04)
    english = f"·  {LABEL_EN}"
    width = round(advance * 6 + gap * 2 + font.getlength(english)) + size
    sheet = Image.new("L", (width, round(size * 1.5)), 0)
    pen = ImageDraw.Draw(sheet)
    x, top = size * 0.2, size * 0.2
    for letter in LABEL_KO:
        if letter == " ":
            x += gap
            continue
        for stroke in _SYLLABLES[letter]:
            points = [(x + px * size, top + py * size) for px, py in stroke]
            pen.line(points, fill=255, width=thickness, joint="curve")
            for px, py in (points[0], points[-1]):
                r = thickness / 2
                pen.ellipse((px - r, py - r, px + r, py + r), fill=255)
        x += advance
    pen.text((x + gap * 0.7, top + size * 0.93), english, fill=255, font=font, anchor="ls")
    sheet = sheet.crop(sheet.getbbox())
    sheet = sheet.resize((max(1, sheet.width // _FINE), max(1, sheet.height // _FINE)), Image.Resampling.LANCZOS)
    plane = np.asarray(sheet, np.float32) / 255
    plane.flags.writeable = False
    return plane


def write_label(photo: Pixels, bottom: int) -> None:
    """Set the label into the photo (RGB 0..1, changed in place), light on a soft dark band ending at row `bottom`."""
    words = label(19)
    height, width = words.shape
    pad_x, pad_y = 20, 11
    left, top = photo.shape[1] // 2 - width // 2, bottom - pad_y - height
    x = np.arange(-pad_x, width + pad_x, dtype=np.float32)[None, :]
    y = np.arange(-pad_y, height + pad_y, dtype=np.float32)[:, None]
    radius = np.float32(height / 2 + pad_y)
    beyond = np.maximum(np.abs(x - (width - 1) / 2) - (width / 2 + pad_x - radius), 0)
    pill = np.clip(radius - np.sqrt(beyond**2 + (y - (height - 1) / 2) ** 2), 0, 1)[..., None]
    area = photo[top - pad_y : top + height + pad_y, left - pad_x : left + width + pad_x]
    area *= 1 - pill * np.float32(0.46)
    inner = photo[top : top + height, left : left + width]
    inner += (np.array([1.0, 0.99, 0.96], np.float32) - inner) * (words * np.float32(0.94))[..., None]
