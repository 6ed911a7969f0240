"""Placing a portrait in its window: how large, how far to which side, and what to do where the photo ends too soon."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.preview.windows import FACE_X, FACE_Y, Window

Picture = NDArray[np.uint8]  # height x width x RGB

# The face may grow by this much over the window's own measure to keep it in the middle; beyond, it moves aside.
_GROWTH_MAX = 1.35
# A border whose colours vary less than this (0..255) is a plain wall and can be continued without being noticed.
_PLAIN_BORDER = 11.0


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture, in its pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Framed:
    """The part of a portrait that fills a window's box, and where the face has come to lie in it."""

    picture: Picture
    face: Face


def assumed_face(width: int, height: int) -> Face:
    """Where a face usually is, for portraits in which none was found."""
    tall = min(0.36 * height, 0.5 * width)
    return Face(width / 2 - 0.37 * tall, 0.40 * height - tall / 2, 0.74 * tall, tall)


def frame(portrait: Picture, face: Face, window: Window) -> Framed:
    """Scale and crop the portrait so that it fills the window's box with the face where it belongs.

    The box is always filled. Where the photo does not reach, a plain border is continued; any other border ends at the
    window's edge, and the face moves or grows instead, because a person cut off inside the window looks broken.
    """
    portrait, face = _with_room(portrait, face, window)
    height, width = portrait.shape[:2]
    x, y = face.middle
    wanted = window.face_height / face.height
    box_width, box_height = window.right - window.left, window.bottom - window.top
    to_fill = max(box_width / width, box_height / height)
    to_centre = max(
        (FACE_X - window.left) / max(x, 1),
        (window.right - FACE_X) / max(width - x, 1),
        (FACE_Y - window.top) / max(y, 1),
        (window.bottom - FACE_Y) / max(height - y, 1),
    )
    scale = max(to_fill, min(max(wanted, to_centre), wanted * _GROWTH_MAX))
    left = float(np.clip(x - (FACE_X - window.left) / scale, 0, max(0.0, width - box_width / scale)))
    top = float(np.clip(y - (FACE_Y - window.top) / scale, 0, max(0.0, height - box_height / scale)))
    x0, y0 = round(left), round(top)
    x1 = max(x0 + 1, min(width, round(left + box_width / scale)))
    y1 = max(y0 + 1, min(height, round(top + box_height / scale)))
    size = (round(box_width), round(box_height))
    if scale < 1:
        picture = cv2.resize(portrait[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    else:
        picture = cv2.resize(portrait[y0:y1, x0:x1], size, interpolation=cv2.INTER_CUBIC)
        if scale > 1.6:
            # Enlarged compression blocks would show; the edges are drawn again a little afterwards.
            picture = cv2.bilateralFilter(picture, 5, 18, 3)
            soft = cv2.GaussianBlur(picture, (0, 0), 1.6)
            picture = cv2.addWeighted(picture, 1.25, soft, -0.25, 0)
    placed = Face((face.left - x0) * scale, (face.top - y0) * scale, face.width * scale, face.height * scale)
    return Framed(picture.astype(np.uint8, copy=False), placed)


def _with_room(portrait: Picture, face: Face, window: Window) -> tuple[Picture, Face]:
    """Continue plain borders above and beside the face as far as the window asks for at the wanted size."""
    height, width = portrait.shape[:2]
    x, y = face.middle
    scale = window.face_height / face.height
    lacking = (
        (FACE_Y - window.top) / scale - y,
        (FACE_X - window.left) / scale - x,
        (window.right - FACE_X) / scale - (width - x),
    )
    strip = max(2, round(0.02 * max(height, width)))
    # The lower half of the sides is where shoulders leave the picture: only what is beside the head must be plain.
    beside = slice(0, max(strip, min(height, round(face.top + 2.2 * face.height))))
    borders = (portrait[:strip], portrait[beside, :strip], portrait[beside, -strip:])
    limits = (1.2 * face.height, 0.8 * face.height, 0.8 * face.height)
    top, left, right = (
        round(min(lack, limit)) if lack > 1 and _is_plain(border) else 0
        for lack, border, limit in zip(lacking, borders, limits, strict=True)
    )
    if not (top or left or right):
        return portrait, face
    wide = cv2.copyMakeBorder(portrait, top, 0, left, right, cv2.BORDER_REPLICATE)
    # Streaks of single pixels would give the continuation away.
    radius = max(1.0, 0.06 * face.height)
    if top:
        wide[:top] = cv2.GaussianBlur(wide[: top + strip], (0, 0), radius)[:top]
    if left:
        wide[:, :left] = cv2.GaussianBlur(wide[:, : left + strip], (0, 0), radius)[:, :left]
    if right:
        wide[:, -right:] = cv2.GaussianBlur(wide[:, -right - strip :], (0, 0), radius)[:, -right:]
    return wide.astype(np.uint8, copy=False), Face(face.left + left, face.top + top, face.width, face.height)


def _is_plain(border: Picture) -> bool:
    smooth = cv2.blur(border, (5, 5)).astype(np.float32)
    return float(smooth.std(axis=(0, 1)).max()) < _PLAIN_BORDER
