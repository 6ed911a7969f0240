"""Single blossoms and leaves, drawn petal by petal without colour and painted in any palette afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.preview.windows import Plane

Pixels = NDArray[Any]  # float32, height x width x channels, 0..1
Colour = tuple[float, float, float]  # RGB, 0..1

SPRITE_PX = 192  # larger than any blossom is stamped, so that stamping always shrinks
DRAWINGS = 3  # different drawings of each kind; more are not told apart

BlossomKind = Literal["rose", "peony", "ranunculus", "plum", "anemone"]
LeafKind = Literal["rose_leaf", "eucalyptus", "olive"]


@dataclass(frozen=True, slots=True)
class Sprite:
    """A shape without colour, the same at several sizes, each half the one before.

    The three channels are light (0 deepest .. 1 brightest), heart (how much is stamens) and cover (opacity), each 0..1.
    """

    sizes: tuple[Pixels, ...]

    @classmethod
    def of(cls, light: Plane, heart: Plane, cover: Plane) -> "Sprite":
        sizes = [cv2.merge([light, heart, cover])]
        while len(sizes) < 5:
            sizes.append(cv2.resize(sizes[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        for size in sizes:
            size.flags.writeable = False  # shared by every thread
        return cls(tuple(sizes))


@dataclass(frozen=True, slots=True)
class Tint:
    """The colours that a sprite is painted in, RGB 0..1, from its deepest to its brightest light."""

    deep: Colour
    middle: Colour
    bright: Colour
    heart: Colour = (0.86, 0.68, 0.30)


def paint(sprite: Sprite, tint: Tint, size_px: int, angle_degrees: float, mirrored: bool = False) -> Pixels:
    """A square RGBA picture with premultiplied alpha, `size_px` across, turned anticlockwise."""
    planes = next(size for size in reversed(sprite.sizes) if size.shape[0] >= size_px or size is sprite.sizes[0])
    source = planes.shape[0]
    scale = size_px / source
    turn = cv2.getRotationMatrix2D(((source - 1) / 2, (source - 1) / 2), angle_degrees, scale)
    turn[:, 2] += (size_px - source) / 2
    if mirrored:
        turn = turn @ np.array([[1, 0, 0], [0, -1, source - 1], [0, 0, 1]])
    planes = cv2.warpAffine(planes, turn, (size_px, size_px), flags=cv2.INTER_LINEAR)
    light, heart, cover = cv2.split(planes)
    # Piecewise linear from deep over middle to bright, as one product per pixel.
    low, high = np.minimum(light * 2, 1), np.maximum(light * 2 - 1, 0)
    kept = (1 - heart) * cover
    parts = cv2.merge([(1 - low) * kept, (low - high) * kept, high * kept, (0.55 + 0.6 * light) * heart * cover])
    mix = np.array([tint.deep, tint.middle, tint.bright, tint.heart], np.float32).T
    colour = cv2.transform(parts, mix)
    return cv2.merge([*cv2.split(np.minimum(colour, 1)), cover])


@cache
def blossom(kind: BlossomKind, drawing: int) -> Sprite:
    """One of the drawings of a blossom seen from the front; the same one at every call."""
    return _BLOSSOMS[kind](np.random.default_rng([11, drawing]))


@cache
def leaf(kind: LeafKind, drawing: int) -> Sprite:
    """One of the drawings of a leaf that grows from the sprite's left edge to its right edge."""
    return _leaf(np.random.default_rng([23, drawing]), *_LEAVES[kind])


@cache
def petal(drawing: int) -> Sprite:
    """A fallen petal."""
    flower = _Drawing()
    rng = np.random.default_rng([37, drawing])
    flower.add_petal(0.0, 0.05, 0.86, 0.56, wave=0.06, phase=rng.uniform(0, 6), light=(0.35, 0.62))
    return flower.finished()


class _Drawing:
    """Petals laid over each other, each darkening what lies under its edge."""

    def __init__(self) -> None:
        axis = np.linspace(-1, 1, SPRITE_PX, dtype=np.float32)
        self.x, self.y = axis[None, :], axis[:, None]
        # Not black around the flower, or its smoothed outline would be drawn in the deepest colour.
        self.light = np.full((SPRITE_PX, SPRITE_PX), 0.75, np.float32)
        self.heart = np.zeros_like(self.light)
        self.cover = np.zeros_like(self.light)

    def add_petal(
        self,
        angle: float,
        offset: float,
        length: float,
        breadth: float,
        *,
        wave: float,
        phase: float,
        light: tuple[float, float],
        shadow: float = 0.42,
    ) -> None:
        """A petal whose middle lies `offset` from the heart; `light` is its light at the base and what the rim adds."""
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = (self.x * c + self.y * s - np.float32(offset)) / np.float32(length)
        across = (self.y * c - self.x * s) / np.float32(breadth)
        reach = np.sqrt(along * along + across * across)
        if wave:
            bend = np.arctan2(across, along)
            reach = reach + np.float32(wave) * np.sin(bend * 3 + np.float32(phase)) * np.clip(reach, 0, 1)
        softness = 1.6 / (SPRITE_PX / 2 * min(length, breadth))
        inside = np.clip((1 - reach) / np.float32(softness), 0, 1)
        under = np.exp(-((np.maximum(reach - 1, 0) / np.float32(0.22)) ** 2)) * (1 - inside)
        self.light *= 1 - np.float32(shadow) * under
        base, rise = light
        shade = base + rise * np.clip((along + 1) / 2, 0, 1) ** np.float32(1.3)
        shade += np.float32(0.16) * np.exp(-(((1 - reach) / np.float32(0.10)) ** 2))
        shade -= np.float32(0.05) * np.cos(across * 5) ** 2 * np.clip(1 - along, 0, 1)
        self.light += (shade - self.light) * inside
        self.heart *= 1 - inside
        np.maximum(self.cover, inside, out=self.cover)

    def add_stamens(self, rng: np.random.Generator, count: int, reach: float, size: float) -> None:
        for _ in range(count):
            angle, far = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform(0.05, 1))
            px, py = np.float32(far * np.cos(angle)), np.float32(far * np.sin(angle))
            near = np.sqrt((self.x - px) ** 2 + (self.y - py) ** 2)
            dot = np.clip((size - near) * SPRITE_PX / 3, 0, 1).astype(np.float32)
            self.heart = np.maximum(self.heart, dot)
            self.light += (np.float32(rng.uniform(0.35, 1.0)) - self.light) * dot

    def finished(self) -> Sprite:
        lit = np.float32(0.09) * (-self.x - 1.3 * self.y)
        light = np.clip(self.light + lit * self.cover, 0, 1)
        return Sprite.of(light, self.heart, self.cover)


def _rings(
    rng: np.random.Generator,
    rings: list[tuple[float, int]],
    *,
    wave: float,
    open_to: float = 0.0,
) -> _Drawing:
    """Petals in rings (radius, count) from the outermost inwards; the deeper a ring lies, the darker its base."""
    flower = _Drawing()
    for number, (radius, count) in enumerate(rings):
        start = rng.uniform(0, 2 * np.pi)
        depth = number / max(1, len(rings) - 1)
        for k in range(count):
            angle = start + 2 * np.pi * (k + rng.uniform(-0.12, 0.12)) / count
            spread = min(0.66, 2.3 / count) * rng.uniform(0.94, 1.06)
            flower.add_petal(
                angle,
                radius * 0.50 + open_to * (1 - depth),
                radius * 0.50,
                radius * spread,
                wave=wave,
                phase=rng.uniform(0, 6),
                light=(0.34 - 0.24 * depth, 0.50 + 0.02 * depth),
            )
    return flower


def _rose(rng: np.random.Generator) -> Sprite:
    return _rings(
        rng, [(0.96, 5), (0.84, 5), (0.69, 5), (0.54, 4), (0.40, 3), (0.28, 3), (0.17, 2)], wave=0.05
    ).finished()


def _peony(rng: np.random.Generator) -> Sprite:
    flower = _rings(rng, [(0.96, 7), (0.86, 7), (0.73, 6), (0.58, 6), (0.44, 5), (0.31, 4)], wave=0.10)
    flower.add_stamens(rng, 26, 0.15, 0.030)
    return flower.finished()


def _ranunculus(rng: np.random.Generator) -> Sprite:
    radii = np.linspace(0.92, 0.14, 10)
    return _rings(rng, [(float(r), 6 if r > 0.4 else 4) for r in radii], wave=0.02).finished()


def _open_blossom(rng: np.random.Generator, count: int, breadth: float) -> _Drawing:
    flower = _Drawing()
    start = rng.uniform(0, 2 * np.pi)
    for k in range(count):
        flower.add_petal(
            start + 2 * np.pi * k / count + rng.uniform(-0.06, 0.06),
            0.53,
            0.43,
            breadth,
            wave=0.05,
            phase=rng.uniform(0, 6),
            light=(0.30, 0.52),
            shadow=0.22,
        )
    return flower


def _plum(rng: np.random.Generator) -> Sprite:
    flower = _open_blossom(rng, 5, 0.40)
    flower.add_petal(0, 0, 0.20, 0.20, wave=0, phase=0, light=(0.15, 0.15), shadow=0.25)
    flower.add_stamens(rng, 20, 0.34, 0.034)
    return flower.finished()


def _anemone(rng: np.random.Generator) -> Sprite:
    flower = _open_blossom(rng, 7, 0.36)
    flower.add_petal(0, 0, 0.22, 0.22, wave=0, phase=0, light=(0.2, 0.1), shadow=0.3)
    flower.add_stamens(rng, 60, 0.34, 0.026)
    flower.add_stamens(rng, 40, 0.14, 0.06)
    return flower.finished()


def _leaf(rng: np.random.Generator, breadth: float, point: float, veins: float) -> Sprite:
    """`breadth` is the half width at the middle; `point` above 1 sharpens the tip; `veins` is how much they show."""
    axis = np.linspace(0, 1, SPRITE_PX, dtype=np.float32)
    t, y = axis[None, :], (axis[:, None] * 2 - 1)
    y = y - np.float32(rng.uniform(-0.16, 0.16)) * np.sin(t * np.float32(np.pi))  # the leaf's own bend
    profile = np.clip(np.sin(np.float32(np.pi) * t ** np.float32(0.8)), 0, 1)
    half = np.float32(breadth) * profile ** np.float32(point) + np.float32(1e-4)
    side = np.abs(y) / half
    cover = np.clip((1 - side) * half * SPRITE_PX / 2.4, 0, 1) * np.clip(t * 60, 0, 1)
    stalk = np.clip((0.014 - np.abs(y)) * SPRITE_PX / 2, 0, 1) * (t < 0.3)
    light = 0.46 + 0.20 * (y < 0) - 0.16 * np.clip(side, 0, 1) + 0.10 * t
    light = light + np.float32(veins) * np.cos((t - np.abs(y) * np.float32(0.7)) * np.float32(44)) * np.clip(
        1 - side, 0, 1
    )
    light = light + 0.30 * np.exp(-((np.abs(y) / 0.016) ** 2))
    cover = np.maximum(cover, stalk).astype(np.float32)
    light = np.clip(light, 0, 1).astype(np.float32) * np.ones_like(cover)
    return Sprite.of(light, np.zeros_like(cover), cover)


_BLOSSOMS: dict[str, Callable[[np.random.Generator], Sprite]] = {
    "rose": _rose,
    "peony": _peony,
    "ranunculus": _ranunculus,
    "plum": _plum,
    "anemone": _anemone,
}
_LEAVES = {"rose_leaf": (0.34, 0.85, 0.045), "eucalyptus": (0.46, 0.55, 0.015), "olive": (0.17, 0.9, 0.0)}
