"""The light and colour of the person in the window, graded as film is, so that portrait and drawing belong together."""

from dataclasses import dataclass

import cv2
import numpy as np

from worker.preview.blending import blend, brightness, coloured, dim, threefold
from worker.preview.flowers import Colour, Pixels
from worker.preview.framing import Face, Framed, Picture
from worker.preview.windows import Plane, smoothstep


@dataclass(frozen=True, slots=True)
class Grade:
    """How one look treats a photo.

    Attributes:
        shadows, highlights: the colours that dark and bright parts lean to.
        toning: 0..1, how far they lean.
        saturation: 1 keeps colours, 0 is black and white. Loud colours are muted more than skin.
        contrast: 1 keeps it; above 1 is harder.
        lift: how much black is raised (0..0.15), as on old prints.
        glow: 0..1, how much bright parts bloom.
        air: the colour of what lies around the person.
        haze: 0..1, how far the surroundings and the lower edge go over into `air`.
        shade: 0..1, how dark the side away from the lamp is (the lamp stands on the left).
    """

    shadows: Colour
    highlights: Colour
    toning: float
    saturation: float
    contrast: float
    lift: float
    glow: float
    air: Colour
    haze: float
    shade: float = 0.0


_BAND = 64  # rows


def graded(framed: Framed, grade: Grade) -> Pixels:
    """The framed portrait as RGB 0..1, graded."""
    picture = np.empty_like(framed.picture, np.float32)
    gamma = _gamma(framed)
    # In bands that fit the processor's cache: twice as quick, and 16 renders at once stay small.
    for top in range(0, picture.shape[0], _BAND):
        picture[top : top + _BAND] = _developed(framed.picture[top : top + _BAND], gamma, grade)
    _focus(picture, framed.face, grade)
    np.clip(picture, 0, 1, out=picture)
    bloom = np.clip(_wide_blur(picture, 14), 0, 1) * np.float32(0.55)
    # As two slides projected onto each other: bright parts bloom, black stays.
    picture += (1 - picture) * bloom * np.float32(grade.glow)
    return picture


def _developed(rows: Picture, gamma: float, grade: Grade) -> Pixels:
    """Exposure, saturation, contrast and tone: all that looks at one pixel alone."""
    table = (np.arange(256) / 255) ** gamma
    picture: Pixels = cv2.LUT(rows, table.astype(np.float32))
    luma = brightness(picture)
    picture = _muted(picture, luma, grade.saturation)
    curve = np.clip(picture, 0, 1)
    curve *= curve * (3 - 2 * curve)
    picture += (curve - picture) * np.float32(grade.contrast - 1)
    # The tone brings the hue, the photo keeps its light.
    shadows, highlights = (_hue_only(colour) for colour in (grade.shadows, grade.highlights))
    strength = 1.1 - np.abs(2 * luma - 1) * np.float32(0.5)
    toned = threefold(luma) + coloured((1 - luma) * strength, shadows) + coloured(luma * strength, highlights)
    picture += (toned - picture) * np.float32(grade.toning)
    if grade.lift:
        picture *= 1 - np.float32(grade.lift)
        picture += np.float32(grade.lift) * np.array(grade.shadows, np.float32) ** np.float32(0.5)
    return picture


def _hue_only(colour: Colour) -> list[float]:
    red, green, blue = colour
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [red - luma, green - luma, blue - luma]


def _gamma(framed: Framed) -> float:
    """What brightens a dark face and calms a burnt one, within narrow bounds: skin keeps its own colour."""
    height, width = framed.picture.shape[:2]
    face = framed.face
    x0, x1 = (int(np.clip(v, 0, width)) for v in (face.left, face.left + face.width))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (face.top, face.top + face.height))
    region = framed.picture[y0:y1, x0:x1]
    if not region.size:
        return 1.0
    mean = float(np.clip(cv2.cvtColor(region, cv2.COLOR_RGB2GRAY).mean() / 255, 0.05, 0.95))
    return float(np.clip(np.log(np.clip(mean, 0.44, 0.66)) / np.log(mean), 0.78, 1.2))


def _muted(picture: Pixels, luma: Plane, saturation: float) -> Pixels:
    grey = threefold(luma)
    chroma = picture - grey
    loud = np.sqrt(cv2.transform(chroma * chroma, np.ones((1, 3), np.float32)))
    keep = np.float32(saturation) / (1 + np.float32(4.0) * np.maximum(loud - np.float32(0.24), 0))
    chroma *= threefold(keep)
    chroma += grey
    return chroma


def _focus(picture: Pixels, face: Face, grade: Grade) -> None:
    """Let what surrounds the person fall out of focus and go over into the air's colour."""
    height, width = picture.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    cx, cy = (np.float32(v) for v in face.middle)
    tall = np.float32(face.height)
    head = np.sqrt(((x - cx) / (0.94 * tall)) ** 2 + ((y - cy + 0.12 * tall) / (1.10 * tall)) ** 2)
    body = np.sqrt(((x - cx) / (2.15 * tall)) ** 2 + ((y - cy - 2.6 * tall) / (1.9 * tall)) ** 2)
    if grade.shade:
        side = np.clip((x - cx + 0.25 * tall) / (1.5 * tall), 0, 1)
        dim(picture, np.repeat(np.float32(grade.shade) * side * side * (3 - 2 * side), height, axis=0))
    around = smoothstep(0.92, 1.54, np.minimum(head, body))
    soft = _wide_blur(picture, 9)
    soft -= picture
    soft *= threefold(around)
    picture += soft
    low = np.clip((y / height - 0.66) / 0.34, 0, 1) ** np.float32(1.5)
    blend(picture, grade.air, np.maximum(around * np.float32(0.85), low) * np.float32(grade.haze))


def _wide_blur(picture: Pixels, radius: float) -> Pixels:
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), radius / 4)
    blurred: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return blurred
