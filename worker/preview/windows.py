"""The four windows through which a portrait is seen, as signed distances, so that every edge is smooth at any width."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[Any]  # float32, height x width: one number per pixel

WIDTH, HEIGHT = 900, 1200  # the photo, in pixels
FACE_X, FACE_Y = 450.0, 0.42 * HEIGHT  # where the middle of the face should come to lie


@dataclass(frozen=True, slots=True)
class Window:
    """Where the portrait shows, in pixels of the photo.

    Attributes:
        left, top, right, bottom: the box that the portrait has to fill.
        face_height: how tall the face should be, chin to brow.
        distance: x, y -> pixels from the edge, negative inside.
    """

    left: float
    top: float
    right: float
    bottom: float
    face_height: float
    distance: Callable[[Plane, Plane], Plane]

    @property
    def full_bleed(self) -> bool:
        return self.left <= 0

    def depth_at(self, x: float, y: float) -> float:
        """How far inside the window a point lies; negative outside."""
        return -float(self.distance(np.array(x), np.array(y)))

    def edge(self, dx: float = 0.0, dy: float = 0.0) -> Plane:
        """The distance plane of the whole photo, for the window moved by (dx, dy)."""
        x, y = grid()
        plane: Plane = self.distance(x - np.float32(dx), y - np.float32(dy)).astype(np.float32, copy=False)
        return plane


@cache
def grid() -> tuple[Plane, Plane]:
    """The x (1 x width) and y (height x 1) of every pixel; never written to."""
    x = np.arange(WIDTH, dtype=np.float32)[None, :]
    y = np.arange(HEIGHT, dtype=np.float32)[:, None]
    x.flags.writeable = y.flags.writeable = False
    return x, y


def smoothstep(low: float, high: float, value: Plane) -> Plane:
    """0 below `low`, 1 above `high`, without a corner in between; `high` may be the smaller of the two."""
    t: Plane = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    t *= t * (3 - 2 * t)
    return t


def _oval(cx: float, cy: float, rx: float, ry: float) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        u, v = (x - np.float32(cx)) / np.float32(rx), (y - np.float32(cy)) / np.float32(ry)
        reach = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / np.float32(rx)) ** 2 + (v / np.float32(ry)) ** 2)
        plane: Plane = reach * (reach - 1) / np.maximum(slope, np.float32(1e-6))
        return plane

    return distance


def _arch(cx: float, springing: float, radius: float, bottom: float) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        u, v = np.abs(x - np.float32(cx)), y - np.float32(springing)
        above = np.sqrt(u * u + v * v) - np.float32(radius)
        below = np.maximum(u - np.float32(radius), y - np.float32(bottom))
        return np.where(v < 0, above, below)

    return distance


def _panel(inset: float, corner: float) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        u = np.abs(x - WIDTH / 2) - np.float32(WIDTH / 2 - inset - corner)
        v = np.abs(y - HEIGHT / 2) - np.float32(HEIGHT / 2 - inset - corner)
        outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
        plane: Plane = outside + np.minimum(np.maximum(u, v), 0) - np.float32(corner)
        return plane

    return distance


# By slot: an oval, an arch, a circle, and the whole photo with a line drawn inside it.
WINDOWS = (
    Window(132, 134, 768, 986, 232, _oval(450, 560, 318, 426)),
    Window(152, 96, 748, 1062, 216, _arch(450, 394, 298, 1062)),
    Window(86, 136, 814, 864, 204, _oval(450, 500, 364, 364)),
    Window(0, 0, WIDTH, HEIGHT, 258, _panel(50, 4)),
)
