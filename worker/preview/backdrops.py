"""What is drawn behind the window: gardens, walls, evenings, mountains; each in whatever colours it is given.

Backdrops are drawn at half the photo's size and enlarged: a little soft, as what lies behind the focus is, and four
times as quick. Places and lengths are given in pixels of the photo all the same.
"""

from collections.abc import Callable, Sequence
from functools import cache

import cv2
import numpy as np

from worker.preview.blending import blend, dim, shine, threefold
from worker.preview.flowers import Colour, Pixels
from worker.preview.windows import HEIGHT, WIDTH, Plane, smoothstep

Backdrop = Callable[[np.random.Generator, Sequence[Colour]], Pixels]  # colours: from the top downwards, then the light

_HALF_WIDTH, _HALF_HEIGHT = WIDTH // 2, HEIGHT // 2


def draw_backdrop(backdrop: Backdrop, rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """The backdrop at the photo's size, RGB 0..1."""
    ground = np.clip(backdrop(rng, colours), 0, 1)
    photo: Pixels = cv2.resize(ground, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return photo


def bokeh_garden(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """Sun through leaves, far out of focus."""
    ground = _gradient(colours[:-1])
    ground += threefold(_cloud(rng, 5, 0.10))
    _add_discs(ground, rng, colours[-1], count=46, radii=(10, 54), strength=0.20, region=(0.0, 0.95))
    glow = _spot(WIDTH * 0.30, HEIGHT * 0.04, 620)
    shine(ground, colours[-1], glow * np.float32(0.18))
    return ground


def plaster_arch(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """A lime-washed wall with a niche that is a little larger than the window."""
    wall = _wall(rng, colours)
    x, y = _grid()
    for radius, left, depth in ((352.0, 450.0, 0.10), (300.0, 450.0, 0.0)):
        u, v = np.abs(x - left), y - 420
        edge = np.where(v < 0, np.sqrt(u * u + v * v), u) - np.float32(radius)
        inside = smoothstep(1.5, -1.5, edge)
        shade = inside * (depth + 0.16 * np.exp(-np.maximum(-edge, 0) / 34) * (0.6 + 0.4 * (x < left)))
        dim(wall, shade)
        wall += threefold(np.exp(-((edge - 2) ** 2) / 6) * 0.07 * (x > left))
    return wall


def window_light(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """A plain wall on which the sun throws the panes of a window and the shadow of a branch."""
    wall = _wall(rng, colours)
    height, width = HEIGHT // 4, WIDTH // 4  # a shadow this soft needs no more
    light = np.zeros((height, width), np.uint8)
    lean = rng.uniform(-0.42, -0.30)
    for column in range(3):
        for row in range(4):
            x0, y0 = 18 + column * 74, -26 + row * 84
            corners = [(x0, y0), (x0 + 64, y0), (x0 + 64, y0 + 74), (x0, y0 + 74)]
            pane = np.array([(px, py - lean * px * 1.2 - 36) for px, py in corners], np.int32)
            cv2.fillConvexPoly(light, pane, 255, cv2.LINE_AA)
    branch = np.zeros_like(light)
    for _ in range(5):
        base = np.array([rng.uniform(0.2, 1.1) * width, rng.uniform(-0.1, 0.5) * height])
        angle = rng.uniform(1.6, 2.7)
        for i in range(16):
            spot = base + i * 9 * np.array([np.cos(angle), np.sin(angle)])
            turn = np.degrees(angle) + (48 if i % 2 else -48)
            middle = spot + 10 * np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
            cv2.ellipse(branch, (round(middle[0]), round(middle[1])), (13, 4), turn, 0, 360, 255, -1, cv2.LINE_AA)
    lit: Plane = cv2.GaussianBlur(light, (0, 0), 2.2).astype(np.float32) / 255
    lit *= 1 - 0.75 * cv2.GaussianBlur(branch, (0, 0), 2.6).astype(np.float32) / 255
    lit = cv2.resize(lit, (_HALF_WIDTH, _HALF_HEIGHT), interpolation=cv2.INTER_CUBIC)
    dim(wall, 0.13 * (1 - lit))
    blend(wall, colours[-1], lit * np.float32(0.62))
    return wall


def studio(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """A roll of paper with one soft lamp behind the sitter."""
    ground = _gradient(colours[:-1])
    ground += threefold(_cloud(rng, 6, 0.05))
    blend(ground, colours[-1], _spot(WIDTH * 0.5, HEIGHT * 0.40, 520) * np.float32(0.75))
    return ground


def drapery(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """A curtain in long folds, lit from the left."""
    ground = _gradient(colours[:-1])
    x, y = _grid()
    bend = x + 16 * np.sin(y / 310 + rng.uniform(0, 6)) + 7 * np.sin(y / 127 + x / 210)
    folds = np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.float32)
    for wave, strength in ((118.0, 0.50), (67.0, 0.32), (31.0, 0.18)):
        folds += np.float32(strength) * np.sin(bend * np.float32(2 * np.pi / wave) + np.float32(rng.uniform(0, 6)))
    crest = np.clip(folds, 0, 1) ** 2
    dim(ground, 0.14 - 0.20 * folds)
    shine(ground, colours[-1], crest * 0.30 * (1.15 - x / WIDTH * 0.7))
    return ground


def evening_lights(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """Dusk, strings of lamps across it, and more of them far behind."""
    ground = _gradient(colours[:-1])
    ground += threefold(_cloud(rng, 5, 0.05))
    _add_discs(ground, rng, colours[-1], count=30, radii=(8, 34), strength=0.17, region=(0.55, 1.0))
    lamps = np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.float32)
    wires = np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.uint8)
    for row in range(6):
        start, end = rng.uniform(-30, 330, 2) + row * 62 - 60
        sag = rng.uniform(60, 140)
        xs = np.linspace(-20, WIDTH + 20, 30 - row)
        t = xs / WIDTH
        ys = start + (end - start) * t + sag * 4 * t * (1 - t)
        line = np.stack([xs, ys], axis=1)
        cv2.polylines(wires, [np.round(line * 8).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
        for px, py in line + rng.normal(0, 1.2, line.shape):
            radius = round(rng.uniform(2.4, 4.2) * 8)
            cv2.circle(lamps, (round(px * 8), round(py * 8 + 30)), radius, 1.0, -1, cv2.LINE_AA, 4)
    dim(ground, 0.18 * (wires.astype(np.float32) / 255))
    glow = _soft(lamps, 4) * 2.6 + _soft(lamps, 16) * 9.0
    shine(ground, colours[-1], np.clip(glow, 0, 1.2) * np.float32(0.62))
    blend(ground, (1.0, 0.97, 0.88), lamps)
    return ground


def city_bokeh(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """A city at night behind a long lens, with haze above it."""
    ground = _gradient(colours[:-2])
    ground += threefold(_cloud(rng, 4, 0.06))
    for colour, count in ((colours[-1], 34), (colours[-2], 24)):
        _add_discs(ground, rng, colour, count=count, radii=(12, 46), strength=0.30, region=(0.30, 0.98))
    shine(ground, colours[-1], _beam(rng) * np.float32(0.20))
    return ground


def ink_mountains(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """Ranges fading into mist, as brushed in ink, under a large pale sun or moon (the last colour)."""
    ground = _gradient(colours[:2])
    x, y = _grid()
    ground += threefold(_paper(rng) * np.float32(0.5))
    disc = smoothstep(2.0, -2.0, np.sqrt((x - 690) ** 2 + (y - 190) ** 2) - 96)
    blend(ground, colours[-1], _spot(690, 190, 330) * np.float32(0.35))
    blend(ground, colours[-1], disc * np.float32(0.92))
    ranges = colours[2:-1]
    for number in range(4):
        colour = _mix(ranges, number / 3)
        level = 520 + number * 160
        ridge = np.full(_HALF_WIDTH, float(level))
        for octave in range(6):
            wave = 560 / 2**octave
            ridge += 80 / 2**octave * np.sin(x[0] / wave * 2 * np.pi + rng.uniform(0, 6))
        ridge += np.convolve(rng.normal(0, 5, _HALF_WIDTH + 8), np.ones(9) / 9, "valid")
        depth = y - ridge[None, :].astype(np.float32)
        mist = np.exp(-np.maximum(y - np.float32(level - 90), 0) / 130)
        cover = smoothstep(-1.2, 1.2, depth) * (0.12 + 0.80 * mist)
        blend(ground, colour.tolist(), cover * np.float32(0.45 + 0.14 * number))
    return ground


def paper_lattice(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """The paper door of a hanok with the light behind it and its lattice in front."""
    ground = _gradient(colours[:2])
    ground += threefold(_paper(rng))
    blend(ground, colours[-1], _spot(WIDTH * 0.5, HEIGHT * 0.38, 640) * np.float32(0.7))
    bars = np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.float32)
    for px in range(22, _HALF_WIDTH, 45):
        bars[:, px - 2 : px + 2] = 1
    for group in (48, 300, 552):
        for py in (group - 23, group, group + 23):
            bars[py - 2 : py + 2] = 1
    for px in (0, 222, _HALF_WIDTH - 6):
        bars[:, px : px + 6] = 1
    dim(ground, 0.26 * np.roll(_soft(bars, 7), (4, 3), (0, 1)))
    blend(ground, colours[2], 0.72 * cv2.GaussianBlur(bars, (0, 0), 0.5))
    return ground


def aged_paper(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    """The leaf of an old album: foxed, darker towards the edges, with a faint printed ornament."""
    ground = _gradient(colours[:2])
    x, y = _grid()
    ground += threefold(_cloud(rng, 7, 0.09) + _paper(rng))
    # Diamonds of the trellis, and a small four-petalled flower where its lines cross.
    u, v = x / 84, y / 112
    p, q = (u + v) % 1 - 0.5, (u - v) % 1 - 0.5
    trellis = np.exp(-((p / 0.022) ** 2)) + np.exp(-((q / 0.022) ** 2))
    reach, turn = np.sqrt(p * p + q * q), np.arctan2(q, p)
    print_ = np.maximum(smoothstep(0.02, -0.02, reach - 0.17 * np.abs(np.cos(2 * turn)) - 0.03), 0.55 * trellis)
    blend(ground, colours[2], print_ * np.float32(0.20))
    border = np.minimum(np.minimum(x, WIDTH - x), np.minimum(y, HEIGHT - y))
    dim(ground, 0.30 * np.exp(-border / 90))
    blend(ground, colours[-1], _spot(WIDTH * 0.42, HEIGHT * 0.35, 520) * np.float32(0.35))
    return ground


@cache
def _grid() -> tuple[Plane, Plane]:
    """The x (1 x width) and y (height x 1), in pixels of the photo, of every pixel drawn here."""
    x = (np.arange(_HALF_WIDTH, dtype=np.float32) * 2 + np.float32(0.5))[None, :]
    y = (np.arange(_HALF_HEIGHT, dtype=np.float32) * 2 + np.float32(0.5))[:, None]
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _wall(rng: np.random.Generator, colours: Sequence[Colour]) -> Pixels:
    ground = _gradient(colours[:-1])
    texture = _cloud(rng, 9, 0.05) + _cloud(rng, 40, 0.022) + _cloud(rng, 150, 0.012)
    ground += threefold(texture)
    blend(ground, colours[-1], _spot(WIDTH * 0.28, HEIGHT * 0.20, 700) * np.float32(0.45))
    return ground


def _mix(colours: Sequence[Colour], t: float) -> Pixels:
    at = np.linspace(0, 1, len(colours))
    return np.array([np.interp(t, at, [c[i] for c in colours]) for i in range(3)], np.float32)


def _gradient(colours: Sequence[Colour]) -> Pixels:
    column = np.array([_mix(colours, t) for t in np.linspace(0, 1, _HALF_HEIGHT)], np.float32)
    return np.repeat(column[:, None, :], _HALF_WIDTH, axis=1)


def _cloud(rng: np.random.Generator, cells: int, strength: float) -> Plane:
    """Soft uneven patches, about `cells` across, between -strength and strength or so."""
    noise = rng.normal(0, 1, (cells * 4 // 3 + 2, cells + 2)).astype(np.float32)
    return cv2.resize(noise, (_HALF_WIDTH, _HALF_HEIGHT), interpolation=cv2.INTER_CUBIC) * np.float32(strength * 0.5)


def _paper(rng: np.random.Generator) -> Plane:
    """Fibres of handmade paper, -0.05 .. 0.05 or so."""
    fibres = np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.uint8)
    for _ in range(420):
        px, py = rng.uniform(0, _HALF_WIDTH), rng.uniform(0, _HALF_HEIGHT)
        turn, length, start = rng.uniform(0, 360), int(rng.uniform(8, 46)), rng.uniform(0, 180)
        axes, strength = (length, length // 2), int(rng.uniform(60, 200))
        cv2.ellipse(fibres, (int(px), int(py)), axes, turn, start, start + 42, strength, 1, cv2.LINE_AA)
    sheet: Plane = _cloud(rng, 60, 0.02) + _cloud(rng, 220, 0.018) - np.float32(0.07 / 255) * fibres
    return sheet


def _spot(cx: float, cy: float, radius: float) -> Plane:
    """A round glow, 1 in the middle, falling off smoothly."""
    x, y = _grid()
    glow: Plane = np.exp(-((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2) / np.float32(0.5 * radius**2))
    return glow


def _soft(plane: Plane, radius: float) -> Plane:
    """A wide blur, worked out on a smaller copy."""
    small = cv2.resize(plane, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(0.5, radius / 4))
    return cv2.resize(small, (_HALF_WIDTH, _HALF_HEIGHT), interpolation=cv2.INTER_LINEAR)


def _beam(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    angle = np.arctan2(x - WIDTH * 0.86, y + 160)
    lean = np.float32(rng.uniform(-0.52, -0.40))
    beam: Plane = np.exp(-(((angle - lean) / np.float32(0.16)) ** 2)) * np.clip(1.1 - y / HEIGHT, 0, 1)
    return beam


def _add_discs(
    ground: Pixels,
    rng: np.random.Generator,
    colour: Colour,
    *,
    count: int,
    radii: tuple[float, float],
    strength: float,
    region: tuple[float, float],
) -> None:
    """Lights out of focus: discs with a slightly brighter rim, some sharper than others; `region` is y as shares."""
    sheets = [np.zeros((_HALF_HEIGHT, _HALF_WIDTH), np.float32) for _ in range(2)]
    for i in range(count):
        px, py = rng.uniform(0, _HALF_WIDTH), rng.uniform(*region) * _HALF_HEIGHT
        radius = rng.uniform(*radii) * rng.uniform(0.4, 1.0) / 2
        disc = _disc(64)
        size = max(4, round(radius * 2))
        small = cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA) * np.float32(rng.uniform(0.35, 1.0))
        left, top = round(px - size / 2), round(py - size / 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, _HALF_WIDTH), min(top + size, _HALF_HEIGHT)
        if x0 < x1 and y0 < y1:
            sheets[i % 2][y0:y1, x0:x1] += small[y0 - top : y1 - top, x0 - left : x1 - left]
    light = sheets[0] + cv2.GaussianBlur(sheets[1], (0, 0), 5)
    shine(ground, colour, np.clip(light, 0, 1.6) * np.float32(strength))


@cache
def _disc(size: int) -> Plane:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    reach = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    disc: Plane = np.clip((0.94 - reach) * size / 5, 0, 1) * (0.72 + 0.28 * np.clip(reach / 0.9, 0, 1) ** 6)
    disc.flags.writeable = False
    return disc
