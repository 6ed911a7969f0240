"""Photographs for the tests, made by script from the two in `cli/sample/` (their sources are named there).

Every function returns the bytes of one file, always the same within a run, and remembers them.
"""

import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import pillow_heif
from PIL import Image, ImageFilter, ImageOps

MEGABYTE = 1024 * 1024
GPS_LATITUDE = (37.0, 33.0, 59.25)  # what rotated_with_gps() and heic() carry: degrees, minutes, seconds
CAMERA = "Cuggu test camera"  # and their EXIF maker, easy to look for in the bytes of a result
SAMPLES = Path(__file__).parents[1] / "cli" / "sample"

_EXIF_ORIENTATION, _EXIF_MAKER, _EXIF_GPS = 0x0112, 0x010F, 0x8825
# What a camera held that way does to the upright picture; a reader undoes it.
_TURNED_BY_CAMERA = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


# --- Who is in the picture


@cache
def one_face() -> bytes:
    """A JPEG, 512 x 512: one face of about 90 x 113 pixels near the middle of the top half."""
    return (SAMPLES / "astronaut.jpg").read_bytes()


@cache
def no_face() -> bytes:
    """A JPEG, 451 x 300: a cat."""
    return (SAMPLES / "chelsea.jpg").read_bytes()


@cache
def group() -> bytes:
    """A JPEG, 1024 x 512: two people side by side, equally large."""
    picture = Image.new("RGB", (1024, 512))
    picture.paste(_astronaut(), (0, 0))
    picture.paste(ImageOps.mirror(_astronaut()), (512, 0))
    return _jpeg(picture)


@cache
def background_face(width: int = 60) -> bytes:
    """A JPEG, 1024 x 1024: a portrait, and behind the person a second face of `width` pixels, 120 at most.

    The main face is 182 pixels wide. At 60 the second has a ninth of its area: a careful detector finds it (Azure's
    smallest face is 36 pixels wide). At 100 it has a third.
    """
    picture = _astronaut().resize((1024, 1024), Image.Resampling.LANCZOS)
    size = (width * 140 // 60, width * 153 // 60)  # the face is 60 pixels wide where the head and collar are 140
    picture.paste(_astronaut().crop((120, 0, 330, 230)).resize(size, Image.Resampling.LANCZOS), (20, 20))
    return _jpeg(picture)


@cache
def tiny_face() -> bytes:
    """A JPEG, 1600 x 1200: one face of about 49 x 58 pixels, 3 % of the long side."""
    picture = Image.new("RGB", (1600, 1200), (120, 140, 160))
    picture.paste(_astronaut().resize((300, 300), Image.Resampling.LANCZOS), (800, 500))
    return _jpeg(picture)


# --- One face, in every form a phone or an editor may give it


@cache
def one_face_as(image_format: Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]) -> bytes:
    """The one face, 512 x 512, in another format of one frame."""
    return _saved(_astronaut(), image_format)


@cache
def rotated_with_gps(orientation: int = 6) -> bytes:
    """A JPEG, upright only once its EXIF orientation (1..8) is applied; carries GPS_LATITUDE and CAMERA."""
    return _jpeg(_turned(_framed(), orientation), exif=_exif(orientation))


@cache
def heic(orientation: int | None = None) -> bytes:
    """HEIC as phones write it: GPS_LATITUDE, CAMERA, and an `orientation` in the container and again in the EXIF.

    The container's turn is the one that counts; who applies the EXIF's as well turns the picture twice.
    """
    picture = _turned(_framed(), orientation or 1)
    out = BytesIO()
    # Not by way of Image.save: that needs pillow-heif registered, and would hide that the product forgot to.
    exif = _exif(orientation or 1).tobytes()
    pillow_heif.encode(picture.mode, picture.size, picture.tobytes(), out, quality=80, exif=exif)
    return out.getvalue()


@cache
def twelve_megapixels() -> bytes:
    """A JPEG, 4000 x 3000, of one face."""
    return _jpeg(_large())


@cache
def nearly_ten_megabytes() -> bytes:
    """A JPEG, 4000 x 3000, of one face and 1 kB less than 10 MB."""
    return _padded(twelve_megapixels(), 10 * MEGABYTE - 1024)


@cache
def eleven_megabytes() -> bytes:
    """A JPEG, 4000 x 3000, sound but for its 11 MB."""
    return _padded(twelve_megapixels(), 11 * MEGABYTE)


@cache
def animated(image_format: Literal["GIF", "PNG", "WEBP"]) -> bytes:
    """Three frames, the first of them with one face."""
    frames = [_astronaut().rotate(angle) for angle in (0, 5, 10)]
    return _saved(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100, loop=0)


@cache
def multi_picture() -> bytes:
    """MPO, what some cameras and phones write for a plain photo: a JPEG that says it has two frames."""
    preview = _astronaut().resize((256, 256))
    return _saved(_astronaut(), "MPO", save_all=True, append_images=[preview], quality=92)


@cache
def palette_with_transparency() -> bytes:
    """PNG of 256 colours; the frame around the person is transparent."""
    cut_out = Image.new("RGBA", (640, 640), (0, 0, 0, 0))
    cut_out.paste(_astronaut(), (64, 64))
    return _saved(cut_out.quantize(256, Image.Quantize.FASTOCTREE), "PNG")


@cache
def cmyk() -> bytes:
    """A JPEG in the four colours of print."""
    return _jpeg(_astronaut().convert("CMYK"))


@cache
def sixteen_bit() -> bytes:
    """PNG, grey, 16 bits deep: cut down to 8 bits carelessly it turns all white."""
    deep = _astronaut().convert("L").convert("I").point(lambda value: value * 257)
    return _saved(deep.convert("I;16"), "PNG")


@cache
def grey_with_alpha() -> bytes:
    """PNG, grey with alpha; the frame around the person is transparent."""
    cut_out = Image.new("LA", (640, 640), (0, 0))
    cut_out.paste(_astronaut().convert("LA"), (64, 64))
    return _saved(cut_out, "PNG")


# --- Broken or hostile


@cache
def truncated() -> bytes:
    """A JPEG whose second half never arrived."""
    return one_face()[: len(one_face()) // 2]


@cache
def pixel_bomb(width: int = 12_000, height: int = 12_000) -> bytes:
    """PNG of a few hundred bytes whose header promises `width` x `height` pixels.

    At 144 megapixels Pillow only warns; it refuses by itself from 179.
    """
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(4096))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@cache
def many_scans(count: int = 400) -> bytes:
    """A small progressive JPEG, 4000 x 3000, whose last scan stands in it `count` more times: seconds of CPU."""
    plain = _jpeg(Image.new("RGB", (4000, 3000), (150, 160, 170)), progressive=True)
    scan = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + scan * count + b"\xff\xd9"


def filled(filling: bytes, size: int) -> bytes:
    """The portrait with `size` bytes of this between its first two segments."""
    plain = one_face()
    first = 2 + 2 + int.from_bytes(plain[4:6])
    return plain[:first] + filling * (size // len(filling)) + plain[first:]


@cache
def not_an_image() -> bytes:
    """A text that calls itself a picture by nothing but the name it is uploaded under."""
    return "이것은 사진이 아닙니다. This is not a picture.\n".encode() * 64


# --- How they are made


@cache
def _astronaut_pixels() -> Image.Image:
    return Image.open(BytesIO(one_face())).convert("RGB")


def _astronaut() -> Image.Image:
    return _astronaut_pixels().copy()


def _framed() -> Image.Image:
    """Upright, 480 x 640: taller than wide, so that a missed turn shows in the size already."""
    picture = Image.new("RGB", (480, 640), (60, 70, 90))
    picture.paste(_astronaut().resize((480, 480), Image.Resampling.LANCZOS), (0, 160))
    return picture


def _large() -> Image.Image:
    backdrop = _astronaut().resize((250, 188)).filter(ImageFilter.GaussianBlur(20)).resize((4000, 3000))
    backdrop.paste(_astronaut().resize((3000, 3000), Image.Resampling.BICUBIC), (500, 0))
    return backdrop


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    return picture if orientation == 1 else picture.transpose(_TURNED_BY_CAMERA[orientation])


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    exif[_EXIF_MAKER] = CAMERA
    exif.get_ifd(_EXIF_GPS).update({1: "N", 2: GPS_LATITUDE, 3: "E", 4: (126.0, 58.0, 40.5)})
    return exif


def _jpeg(picture: Image.Image, **options: object) -> bytes:
    return _saved(picture, "JPEG", quality=92, **options)


def _saved(picture: Image.Image, image_format: str, **options: object) -> bytes:
    out = BytesIO()
    picture.save(out, image_format, **options)
    return out.getvalue()


def _padded(jpeg: bytes, size: int) -> bytes:
    """The JPEG with as many comment segments after its first marker as bring it to exactly `size` bytes."""
    missing = size - len(jpeg)
    comments = bytearray()
    while missing:
        # A segment is 4 bytes of head and at most 65,533 of body; never leave a rest too small for a head.
        length = missing if missing <= 60_000 else min(60_000, missing - 4)
        comments += struct.pack(">HH", 0xFFFE, length - 2) + bytes(length - 4)
        missing -= length
    return jpeg[:2] + bytes(comments) + jpeg[2:]
