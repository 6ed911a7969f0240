"""`make samples`: the pictures by which the page shows the styles, drawn anew from the free sample portrait."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cli.demo import SAMPLE
from shared.face_detector import FaceDetector
from shared.styles import Style
from worker.preview.compose import render_preview
from worker.preview.framing import Face

TARGET = Path(__file__).parents[1] / "api" / "studio" / "samples"
SIZE = (420, 560)  # pixels: twice what a phone shows of one
WEBP_QUALITY = 68
# The slot that shows each look best, five different ones beside each other.
SLOTS = {Style.CLASSIC: 1, Style.MODERN: 2, Style.VINTAGE: 3, Style.ROMANTIC: 0, Style.CINEMATIC: 1}
SEED = 7


def draw_samples(portrait: Path, target: Path) -> list[Path]:
    """Write one WebP per style, named by its key; the files, in the catalogue's order.

    Raises:
        OSError: the portrait cannot be read or a sample not written.
        shared.face_detector.FaceDetectorUnavailable: without it the face would be cut anywhere.
    """
    with Image.open(portrait) as opened:
        picture = opened.convert("RGB")
    found = FaceDetector(None).detect(picture)[0]
    face = Face(found.left, found.top, found.width, found.height)
    written = []
    for style, slot in SLOTS.items():
        photo = Image.open(io.BytesIO(render_preview(np.asarray(picture), face, style, slot, SEED)))
        path = target / f"{style}.webp"
        photo.resize(SIZE, Image.Resampling.LANCZOS).save(path, "WEBP", quality=WEBP_QUALITY, method=6)
        written.append(path)
    return written


if __name__ == "__main__":
    for path in draw_samples(SAMPLE, TARGET):
        print(f"{path.stat().st_size / 1000:5.1f} kB  {path}")
