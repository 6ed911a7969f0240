"""Flower arrangements along a curve: leaves behind, small flowers at the ends, the largest at the focal point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.preview.flowers import DRAWINGS, BlossomKind, Colour, LeafKind, Pixels, Tint, blossom, leaf, paint, petal

Points = NDArray[Any]  # float, n x 2, pixels of the photo


@dataclass(frozen=True, slots=True)
class Flora:
    """What grows in one look.

    Attributes:
        focal, second, small: the kinds and tints of the large flowers, the ones beside them, and the buds at the ends.
        leaves: kinds and tints, the darkest first, because they are laid in this order.
        stem: the colour of twigs.
        fullness: 1.0 is a rich garland; less is sparser.
        woody: bare twigs with buds, as on a plum tree, instead of fine sprigs.
    """

    focal: Sequence[tuple[BlossomKind, Tint]]
    second: Sequence[tuple[BlossomKind, Tint]]
    small: Sequence[tuple[BlossomKind, Tint]]
    leaves: Sequence[tuple[LeafKind, Tint]]
    stem: Colour
    fullness: float = 1.0
    woody: bool = False


class FlowerLayer:
    """A transparent sheet of the photo's size on which flowers are laid; `pixels` is premultiplied RGBA.

    Nothing is laid on the face, which is a circle of (x, y, radius).
    """

    def __init__(self, width: int, height: int, face: tuple[float, float, float]) -> None:
        self.pixels: Pixels = np.zeros((height, width, 4), np.float32)
        self._face = face

    def lay(self, sprite: Pixels, x: float, y: float) -> None:
        """Lay a square sprite with its middle at (x, y); what sticks out of the photo is cut off."""
        size = sprite.shape[0]
        face_x, face_y, radius = self._face
        if np.hypot(x - face_x, y - face_y) < radius + 0.3 * size:
            return
        left, top = round(x - size / 2), round(y - size / 2)
        height, width = self.pixels.shape[:2]
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, width), min(top + size, height)
        if x0 >= x1 or y0 >= y1:
            return
        part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
        under = self.pixels[y0:y1, x0:x1]
        under *= cv2.merge([1 - part[..., 3]] * 4)
        under += part

    def twig(self, points: Points, colour: Colour, thickness: float) -> None:
        """A smooth line through `points` that gets thinner towards its end."""
        low = np.floor(points.min(axis=0)).astype(int) - 8
        high = np.ceil(points.max(axis=0)).astype(int) + 8
        size = int((high - low).max())
        mask = np.zeros((size, size), np.uint8)
        steps = len(points) - 1
        for i in range(steps):
            a, b = (np.round((points[j] - low) * 16).astype(int) for j in (i, i + 1))
            width = max(1, round(thickness * (1 - 0.75 * i / steps)))
            cv2.line(mask, a.tolist(), b.tolist(), 255, width, cv2.LINE_AA, 4)
        cover = (mask.astype(np.float32) / 255)[..., None]
        sheet = np.concatenate([cover * np.array(colour, np.float32), cover], axis=2)
        self.lay(sheet, low[0] + size / 2, low[1] + size / 2)


def garland(
    layer: FlowerLayer, rng: np.random.Generator, flora: Flora, path: Points, focal: float, scale: float = 1.0
) -> None:
    """Lay a garland along `path`.

    Args:
        path: at least two points, in the order in which the garland runs.
        focal: 0..1, where along the path the largest flowers sit.
        scale: the size of everything; at 1.0 the largest flowers are about 146 pixels across.
    """
    along = _Curve(path)
    reach = max(focal, 1 - focal)

    def weight(t: float) -> float:
        """1 at the focal point, 0 at the farther end."""
        return 1 - abs(t - focal) / reach

    if flora.woody:
        _lay_twigs(layer, rng, flora, along, focal, scale)
    else:
        _lay_sprigs(layer, rng, flora, along, weight, scale)
    _lay_leaves(layer, rng, flora, along, weight, focal, scale)
    _lay_blossoms(layer, rng, flora, along, weight, focal, scale)


def _lay_leaves(
    layer: FlowerLayer,
    rng: np.random.Generator,
    flora: Flora,
    along: "_Curve",
    weight: Callable[[float], float],
    focal: float,
    scale: float,
) -> None:
    """Leaves that point away from the focal point, and around it in every direction."""
    ranks = len(flora.leaves)
    count = max(8, int(along.length / (15 * scale) * flora.fullness))
    for rank in range(count):
        kind, tint = flora.leaves[min(ranks - 1, rank * ranks // count)]
        t = float(np.clip(rng.normal(focal, 0.34) if rng.random() < 0.55 else rng.uniform(0.02, 0.98), 0.01, 0.99))
        near = weight(t)
        spot, heading = along.at(t)
        outward = heading if t > focal else heading + 180.0
        angle = rng.uniform(0, 360) if near > 0.8 else outward + rng.choice([-1, 1]) * rng.uniform(12, 62)
        size = scale * (58 + 54 * near) * rng.uniform(0.8, 1.15)
        shift = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * size * (0.34 + 0.22 * near)
        spot = spot + rng.normal(0, 5 * scale, 2) + shift
        shape = paint(leaf(kind, int(rng.integers(DRAWINGS))), tint, max(12, round(size)), -angle, rng.random() < 0.5)
        layer.lay(shape, *spot)


def _lay_blossoms(
    layer: FlowerLayer,
    rng: np.random.Generator,
    flora: Flora,
    along: "_Curve",
    weight: Callable[[float], float],
    focal: float,
    scale: float,
) -> None:
    """The largest first, wherever they fit; smaller ones fill what is left and overlap them a little."""
    middle, heading = along.at(focal)
    largest = scale * 146 * rng.uniform(0.94, 1.08)
    wanted = [(largest, 1.0, middle)]
    # Two companions on either side of the largest make a cluster; left to chance, some garlands would have none.
    for side, share in ((1, 0.84), (-1, 0.70)):
        angle = np.radians(heading + (0 if side > 0 else 180) + rng.uniform(-55, 55))
        far = 0.40 * largest * (1 + share)
        wanted.append((largest * share, 0.9, middle + far * np.array([np.cos(angle), np.sin(angle)])))
    step = 26 * scale / along.length / max(flora.fullness, 0.35)
    t = 0.03
    while t < 0.97:
        near = weight(t)
        size = scale * (28 + 110 * near**1.6) * rng.uniform(0.88, 1.12)
        wanted.append((size, near, along.at(t)[0] + rng.normal(0, (4 + 26 * near) * scale, 2)))
        t += step * rng.uniform(0.8, 1.25)
    placed: list[tuple[float, Points]] = []
    for size, near, spot in sorted(wanted, key=lambda flower: -flower[0]):
        if any(np.hypot(*(spot - other_spot)) <= 0.36 * (size + other) for other, other_spot in placed):
            continue
        placed.append((size, spot))
        choices = flora.focal if near > 0.80 else flora.second if near > 0.42 else flora.small
        kind, tint = choices[int(rng.integers(len(choices)))]
        shape = paint(blossom(kind, int(rng.integers(DRAWINGS))), tint, max(10, round(size)), rng.uniform(0, 360))
        layer.lay(shape, *spot)


def scatter_petals(
    layer: FlowerLayer,
    rng: np.random.Generator,
    tints: Sequence[Tint],
    count: int,
    may_fall: Callable[[float, float], bool],
) -> None:
    """Petals in the air, some nearer and some farther from the focus, where `may_fall` (x, y) lets them."""
    height, width = layer.pixels.shape[:2]
    for _ in range(count):
        spot = rng.uniform(0, 1, 2) * (width, height)
        size = round(rng.uniform(18, 46))
        shape = paint(
            petal(int(rng.integers(DRAWINGS))), tints[int(rng.integers(len(tints)))], size, rng.uniform(0, 360)
        )
        blur = rng.uniform(0.5, 3.4)
        if may_fall(*spot):
            layer.lay(cv2.GaussianBlur(shape, (0, 0), blur), *spot)


class _Curve:
    """Points and headings by the share of the way along a polyline."""

    def __init__(self, points: Points) -> None:
        self._points = points
        steps = np.hypot(*np.diff(points, axis=0).T)
        self._way = np.concatenate([[0.0], np.cumsum(steps)])
        self.length = float(self._way[-1])

    def at(self, t: float) -> tuple[Points, float]:
        """The point at share `t`, and the direction of travel there in degrees (clockwise on the screen)."""
        way = float(np.clip(t, 0, 1)) * self.length
        x, y = (np.interp(way, self._way, self._points[:, i]) for i in (0, 1))
        i = min(max(int(np.searchsorted(self._way, way)), 1), len(self._points) - 1)
        dx, dy = self._points[i] - self._points[i - 1]
        return np.array([x, y]), float(np.degrees(np.arctan2(dy, dx)))


def _lay_sprigs(
    layer: FlowerLayer,
    rng: np.random.Generator,
    flora: Flora,
    along: _Curve,
    weight: Callable[[float], float],
    scale: float,
) -> None:
    for _ in range(int(along.length / (30 * scale) * flora.fullness)):
        t = rng.uniform(0.06, 0.94)
        start, heading = along.at(t)
        angle = np.radians(heading + rng.uniform(0, 360))
        far = scale * (46 + 44 * weight(t)) * rng.uniform(0.8, 1.2)
        bend = rng.uniform(-0.5, 0.5)
        ways = np.linspace(0, 1, 7)
        stem = np.array(
            [start + far * w * np.array([np.cos(angle + bend * w), np.sin(angle + bend * w)]) for w in ways]
        )
        layer.twig(stem, flora.stem, 2 * scale)
        for w in (0.62, 0.8, 1.0):
            kind, tint = flora.small[int(rng.integers(len(flora.small)))]
            tip = start + far * w * np.array([np.cos(angle + bend * w), np.sin(angle + bend * w)])
            size = max(8, round(scale * rng.uniform(9, 17)))
            layer.lay(
                paint(blossom(kind, int(rng.integers(DRAWINGS))), tint, size, rng.uniform(0, 360)),
                *(tip + rng.normal(0, 4, 2)),
            )


def _lay_twigs(
    layer: FlowerLayer, rng: np.random.Generator, flora: Flora, along: _Curve, focal: float, scale: float
) -> None:
    """Bare branches that leave the focal point along the path, fork, and carry blossoms."""
    for end in (0.0, 1.0):
        if abs(end - focal) < 0.1:
            continue
        shares = np.linspace(focal, end, 16)
        spine = np.array([along.at(float(t))[0] for t in shares])
        spine += np.cumsum(rng.normal(0, 2.4 * scale, spine.shape), axis=0) * np.linspace(0, 1, 16)[:, None]
        layer.twig(spine, flora.stem, 9 * scale)
        for i in range(3, 15, 2):
            forward = np.degrees(np.arctan2(*(spine[i] - spine[i - 1])[::-1]))
            angle = np.radians(forward + rng.choice([-1, 1]) * rng.uniform(24, 58))
            far = scale * rng.uniform(60, 130) * (1 - 0.35 * i / 15)
            kinks = np.cumsum(rng.normal(0, 0.12, 6))
            ways = np.linspace(0, 1, 6)
            fork = np.array(
                [
                    spine[i] + far * w * np.array([np.cos(angle + k), np.sin(angle + k)])
                    for w, k in zip(ways, kinks, strict=True)
                ]
            )
            layer.twig(fork, flora.stem, 4.5 * scale)
            for w in (2, 3, 4, 5):
                kind, tint = flora.small[int(rng.integers(len(flora.small)))]
                size = max(10, round(scale * rng.uniform(16, 40) * (1.15 - 0.1 * w)))
                if rng.random() < 0.8:
                    spot = fork[w] + rng.normal(0, 5 * scale, 2)
                    layer.lay(paint(blossom(kind, int(rng.integers(DRAWINGS))), tint, size, rng.uniform(0, 360)), *spot)
