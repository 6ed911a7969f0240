"""The honest label on every preview."""

from functools import cache

import numpy as np

from shared.lettering import lettering
from worker.preview.flowers import Pixels
from worker.preview.windows import Plane

LABEL_KO = "로컬 미리보기"
LABEL_EN = "Local preview"


@cache
def label(height_px: int) -> Plane:
    """Both words in one line, 0..1; `height_px` is the height of a syllable."""
    plane = np.asarray(lettering((*LABEL_KO.split(), f"·  {LABEL_EN}"), height_px), np.float32) / 255
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
