"""One preview photo: backdrop, window, portrait, line, flowers, grain and label, laid over each other in this order."""

import io
from functools import cache

import cv2
import numpy as np
from PIL import Image

from shared.styles import Style
from worker.preview.backdrops import draw_backdrop
from worker.preview.blending import dim, threefold
from worker.preview.flowers import Pixels
from worker.preview.framing import Face, Framed, Picture, assumed_face, frame
from worker.preview.garlands import FlowerLayer, garland, scatter_petals
from worker.preview.lettering import LABEL_EN, LABEL_KO, write_label
from worker.preview.looks import LOOKS, Scene
from worker.preview.portrait_grade import graded
from worker.preview.windows import FACE_X, FACE_Y, HEIGHT, WIDTH, WINDOWS, Plane, Window, grid, smoothstep

# Threads of our own run side by side: OpenCV must not start more inside each of them.
cv2.setNumThreads(1)

JPEG_QUALITY = 90
_STYLE_ORDER = tuple(Style)


def render_preview(portrait: Picture, face: Face | None, style: Style, slot: int, seed: int) -> bytes:
    """Make one photo of 900 x 1200 pixels; the same arguments give the same bytes.

    Args:
        portrait: height x width x RGB, upright, of any size.
        face: where the face is in it; None when none was found: then it is taken to be where faces usually are.
        slot: 0..3, chooses window, backdrop and light.

    Returns:
        A JPEG that says in the picture, and in its comment, that it is a local preview.
    """
    scene, window = LOOKS[style][slot], WINDOWS[slot]
    rng = np.random.default_rng([seed, _STYLE_ORDER.index(style), slot])
    height, width = portrait.shape[:2]
    framed = frame(portrait, face or assumed_face(width, height), window)
    photo = draw_backdrop(scene.backdrop, rng, scene.colours)
    edge = window.edge()
    _set_portrait(photo, framed, scene, window, edge)
    _draw_lines(photo, scene, window, edge)
    _lay_flowers(photo, rng, scene, slot, framed, window)
    _finish(photo, seed, scene)
    write_label(photo, bottom=HEIGHT - (72 if window.full_bleed else 26))
    pixels = cv2.convertScaleAbs(np.maximum(photo, 0, out=photo), alpha=255)
    out = io.BytesIO()
    comment = f"{LABEL_EN} / {LABEL_KO}".encode()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY, comment=comment)
    return out.getvalue()


def _set_portrait(photo: Pixels, framed: Framed, scene: Scene, window: Window, edge: Plane) -> None:
    picture = graded(framed, scene.grade)
    if window.full_bleed:
        # Outside the line the portrait goes on, but veiled like the mat of a frame.
        _lay_over(photo, picture, 1 - np.float32(0.88) * smoothstep(-1.0, 1.0, edge))
        return
    dim(photo, np.float32(0.42) * smoothstep(74, -30, window.edge(8, 22)))
    top, left = round(window.top), round(window.left)
    box = (slice(top, top + picture.shape[0]), slice(left, left + picture.shape[1]))
    # The window has depth: its own edge throws a narrow shadow on the picture.
    dim(picture, np.float32(0.34) * np.exp(np.minimum(edge[box], 0) / 16))
    _lay_over(photo[box], picture, np.clip(0.5 - edge[box], 0, 1))


def _lay_over(under: Pixels, over: Pixels, weight: Plane) -> None:
    under += (over - under) * threefold(weight)


def _draw_lines(photo: Pixels, scene: Scene, window: Window, edge: Plane) -> None:
    """A rounded metal line on the edge, and a hairline beside it."""
    rows, columns = np.nonzero(np.abs(edge) < 20)
    edge = edge[rows, columns]
    x, y = columns.astype(np.float32), rows.astype(np.float32)
    sheen = 0.5 + 0.5 * np.sin(np.arctan2(y - HEIGHT * 0.5, x - WIDTH * 0.5) * 3 + (x + y) / 330)
    deep, bright = (np.array(colour, np.float32) for colour in scene.line)
    metal = deep + (bright - deep) * (0.25 + 0.75 * sheen)[:, None]
    pixels = photo[rows, columns]
    hairline = -13.0 if window.full_bleed else 14.0
    for offset, width, strength in ((0.0, 6.5, 1.0), (hairline, 1.6, 0.8)):
        cover = np.clip(width / 2 + 0.5 - np.abs(edge - offset), 0, 1) * strength
        roundness = 1.14 - 0.5 * np.clip((edge - offset) / width + 0.35, 0, 1)
        pixels += cover[:, None] * (np.clip(metal * roundness[:, None], 0, 1) - pixels)
    photo[rows, columns] = pixels


def _lay_flowers(
    photo: Pixels, rng: np.random.Generator, scene: Scene, slot: int, framed: Framed, window: Window
) -> None:
    x, y = framed.face.middle
    face_x, face_y = window.left + x, window.top + y
    # No more than the window is wide, or a very close face would leave no flowers at all.
    layer = FlowerLayer(WIDTH, HEIGHT, (face_x, face_y, min(0.8 * framed.face.height, 230.0)))
    # A face that had to stay aside gets the flowers' heavier side opposite to it.
    aside = face_x - FACE_X
    mirrored = (slot == 0 and aside > 50) or (slot == 1 and aside < -50)
    for path, focal, scale in _paths(slot):
        if mirrored:
            path[:, 0] = WIDTH - path[:, 0]
        garland(layer, rng, scene.flora, path, focal, scale)
    tints = [tint for _, tint in [*scene.flora.focal, *scene.flora.second]]

    def may_fall(x: float, y: float) -> bool:
        """On the person petals would look like specks, under the label like dirt."""
        return window.depth_at(x, y) < (30 if window.full_bleed else 8) and y < HEIGHT - 130

    scatter_petals(layer, rng, tints, scene.petals, may_fall)
    cover = np.ascontiguousarray(layer.pixels[..., 3])
    small = cv2.resize(cover, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 3.4)
    shadow = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    shift = np.array([[1, 0, 7], [0, 1, 13]], np.float32)
    shadow = cv2.warpAffine(shadow, shift, (WIDTH, HEIGHT))
    dim(photo, np.float32(0.44) * shadow)
    dim(photo, cover)
    photo += layer.pixels[..., :3]


def _paths(slot: int) -> list[tuple[np.ndarray, float, float]]:
    """Where garlands run in each window: (points, focal point, scale)."""
    if slot == 0:
        low = _arc(450, 566, 322, 432, 38, 200)
        high = _arc(450, 556, 322, 430, -82, -22)
        return [(high, 0.52, 0.66), (low, 0.58, 1.0)]
    if slot == 1:
        side = np.concatenate([_arc(450, 394, 300, 300, -62, -180), [[150, 480], [148, 590], [150, 720]]])
        foot = np.array([[520, 1074], [620, 1070], [716, 1056], [752, 990], [754, 880]], float)
        return [(foot, 0.52, 0.78), (side, 0.46, 0.98)]
    if slot == 2:
        return [(_arc(450, 500, 368, 368, 8, 172), 0.54, 1.08)]
    corner = np.array([[590, 44], [720, 48], [826, 66], [850, 160], [858, 330]], float)
    foot = np.array([[44, 850], [50, 1010], [74, 1110], [180, 1146], [300, 1152]], float)
    return [(corner, 0.58, 0.88), (foot, 0.52, 1.1)]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> np.ndarray:
    """Points along an ellipse; degrees run clockwise on the screen from the right."""
    turns = np.radians(np.linspace(start, end, 40))
    return np.stack([cx + rx * np.cos(turns), cy + ry * np.sin(turns)], axis=1)


def _finish(photo: Pixels, seed: int, scene: Scene) -> None:
    x, y = grid()
    reach = ((x - FACE_X) / (WIDTH * 0.72)) ** 2 + ((y - FACE_Y - 60) / (HEIGHT * 0.66)) ** 2
    dim(photo, np.float32(scene.vignette) * np.clip(reach - np.float32(0.25), 0, 1))
    grain = np.roll(_grain(), (seed % 509, seed % 251), (0, 1))
    photo += threefold(grain * np.float32(0.019))


@cache
def _grain() -> Plane:
    noise = np.random.default_rng(5).normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32)
    grain: Plane = cv2.GaussianBlur(noise, (0, 0), 0.7)
    grain.flags.writeable = False
    return grain
