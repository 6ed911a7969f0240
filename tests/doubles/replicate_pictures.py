"""The doubled models' photos: the portrait, cut to 3:4 and tinted by the seed, with the seed readable in the pixels.

The seed stands as 32 black or white blocks along the lower edge, coarse enough to survive another JPEG encoding and
any scaling: whoever holds a stored photo can prove which prediction made it.
"""

import colorsys
from io import BytesIO

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

WIDTH, HEIGHT = 896, 1200  # 3:4 at about one megapixel
_BITS = 32  # 31 of the seed, then one of parity
_BAND = 40  # pixels
_FORMATS = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png"), "webp": ("WEBP", "image/webp")}


class UnusablePicture(Exception):
    """The model cannot read what it was given."""


def base_picture(portrait: bytes) -> Image.Image:
    """The portrait as every photo of it begins. Raises UnusablePicture for what no BFL model reads (HEIC, text)."""
    try:
        with Image.open(BytesIO(portrait), formats=("JPEG", "PNG", "GIF", "WEBP")) as picture:
            return ImageOps.fit(picture.convert("RGB"), (WIDTH, HEIGHT), centering=(0.5, 0.4))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UnusablePicture(f"cannot identify image file: {error}") from error


def render(base: Image.Image, seed: int, output_format: str) -> tuple[bytes, str]:
    """One photo and its content type; the same base, seed and format always give the same bytes."""
    tint = tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(seed * 0.618034 % 1, 0.8, 0.9))
    photo = Image.blend(base, Image.new("RGB", base.size, tint), 0.25)
    draw = ImageDraw.Draw(photo)
    bits = [seed >> place & 1 for place in range(_BITS - 1)]
    block = WIDTH // _BITS
    for place, bit in enumerate([*bits, sum(bits) % 2]):
        left = place * block
        draw.rectangle((left, HEIGHT - _BAND, left + block - 1, HEIGHT), fill=(255, 255, 255) if bit else (0, 0, 0))
    out = BytesIO()
    name, content_type = _FORMATS[output_format]
    photo.save(out, name, quality=85)
    return out.getvalue(), content_type


def read_seed(photo: bytes) -> int:
    """The seed that a photo of `render` carries, in whatever format and size it is now.

    Raises:
        ValueError: it carries none.
    """
    with Image.open(BytesIO(photo)) as picture:
        grey = picture.convert("L")
    block, line = grey.width / _BITS, round(grey.height * (1 - _BAND / HEIGHT / 2))
    pixels = grey.tobytes()
    levels = [pixels[line * grey.width + round((place + 0.5) * block)] for place in range(_BITS)]
    bits = [int(level > 127) for level in levels]
    if any(60 < level < 195 for level in levels) or sum(bits[:-1]) % 2 != bits[-1]:
        raise ValueError("this picture carries no seed")
    return sum(bit << place for place, bit in enumerate(bits[:-1]))
