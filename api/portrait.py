"""From an uploaded file to the portrait that everything after works with, or a refusal; nothing else happens here."""

import math
import re
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image

from api.faces import PORTRAIT_MIN_SIDE_PX
from api.heic_decoder import HeicDecoderUnusable, HeicRefused, decode_heic
from shared.encoding import encoded
from shared.errors import InvalidImage
from shared.flat_picture import flat_srgb, with_smooth_mode

JPEG_MAX_BYTES = 6_000_000  # Azure Face takes 6 MB
JPEG_QUALITIES = (92, 85, 75, 60, 40)

# A JPEG can be decoded at a half, a quarter or an eighth. Where that lacks no more than a tenth of the size wanted, it
# is taken as it is: most telephones' pictures are 4000 pixels wide or a little more, and at 2000 pixels instead of 2048
# they take a quarter of the time and of the memory (20 ms instead of 80, measured).
JPEG_CLOSE_ENOUGH = 0.9

# Each scan of a progressive JPEG walks over the whole picture: 1 ns per pixel and scan (measured). Real photographs
# had 15 scans at most; 400 fit into 66 kB.
JPEG_MAX_SCANS = 64
JPEG_MAX_SCANNED_PIXELS = 1_000_000_000
# Pillow walks over segments, and over the bytes between those before the first scan, in Python: 10 MB of empty ones
# took 5 s and 0.3 GB, with the interpreter's lock held (measured). 10 MB of full ones are 160.
JPEG_MAX_SEGMENTS = 2000
JPEG_MAX_BYTES_BETWEEN = 65_536
# libwebp keeps two canvases beside the picture: 16 bytes per pixel (measured), four times a PNG's.
WEBP_MAX_PIXELS = 25_000_000

# The codes libjpeg acts on between segments. The others have no length: restart marks (D0-D7), a second start (D8),
# stuffed zeros, and codes that it rejects.
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")

_ORIENTATION_TAG = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Portrait:
    """An upright sRGB JPEG of at most 6 MB without any metadata."""

    jpeg: bytes
    width: int
    height: int
    jpeg_sha256: str  # hex, of `jpeg`


def read_portrait(upload: bytes, *, max_pixels: int, longest_side_px: int) -> Portrait:
    """Decode an upload, whatever its name says: JPEG (also of several pictures, MPO), PNG, WebP, HEIC and HEIF.

    Of an animated PNG or WebP the first frame is taken, of a file of several pictures the main one; GIF is not taken.
    Transparency becomes white, an embedded ICC profile is turned into sRGB (one that cannot be read is ignored), and
    the longest side shrinks to `longest_side_px`, of a JPEG perhaps to a tenth less. `max_pixels` is checked in the
    header, before decoding. Everything is written anew, so location, thumbnails and whatever else was in the file are
    gone.

    Pure and thread-safe. It takes up to about 2 s of CPU and 0.5 GB for 50 megapixels, so call it in a thread and
    bound how many run at once. HEIC is decoded in a child process (see `heic_decoder`).

    Raises:
        InvalidImage: `reason` is not_an_image, broken, too_many_pixels, too_small (shorter side below 200 px, also
            after shrinking) or too_complex.
        HeicDecoderUnusable: a fault of the installation, whatever was uploaded.
    """
    try:
        picture = flat_srgb(_decode(upload, max_pixels, longest_side_px))
        jpeg = _jpeg(picture)
    except (InvalidImage, HeicDecoderUnusable):
        raise
    except HeicRefused as error:
        raise InvalidImage(reason=error.reason) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImage(reason="too_many_pixels") from error
    except Exception as error:  # whatever a decoder raises over a hostile file, the file is at fault
        raise InvalidImage(reason="broken") from error
    return Portrait(jpeg, picture.width, picture.height, sha256(jpeg).hexdigest())


def _format(upload: bytes) -> str:
    if upload.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if upload.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if upload.startswith(b"RIFF") and upload[8:12] == b"WEBP":
        return "WEBP"
    if upload[4:8] == b"ftyp" and upload[8:12] in _HEIF_BRANDS:
        return "HEIF"
    raise InvalidImage(reason="not_an_image")


def _decode(upload: bytes, max_pixels: int, longest_side_px: int) -> Image.Image:
    """The picture upright and shrunk, in the mode its file had, with its ICC profile in `info`."""
    image_format = _format(upload)
    if image_format == "HEIF":
        picture = decode_heic(upload, max_pixels=max_pixels, longest_side_px=longest_side_px)
        _size_within(picture.size, longest_side_px)
        return picture
    if image_format == "WEBP" and _webp_canvas_pixels(upload) > min(max_pixels, WEBP_MAX_PIXELS):
        raise InvalidImage(reason="too_many_pixels")  # Pillow allocates the canvas while it opens the file
    scans = _jpeg_scans(upload) if image_format == "JPEG" else 1
    if scans > JPEG_MAX_SCANS:
        raise InvalidImage(reason="too_complex")
    with Image.open(BytesIO(upload), formats=[image_format]) as opened:
        pixels = opened.width * opened.height
        if pixels > max_pixels:
            raise InvalidImage(reason="too_many_pixels")
        if pixels * scans > JPEG_MAX_SCANNED_PIXELS:
            raise InvalidImage(reason="too_complex")
        size = _size_within(opened.size, longest_side_px)
        opened.draft(None, _close_enough(size))
        opened.load()
        orientation = _orientation(opened)  # a PNG may say it after the pixels
        picture = with_smooth_mode(opened)
        if max(picture.size) > longest_side_px:
            # From three times the size on, whole pixels are averaged first: a third of the time. Below, Lanczos took
            # 130 ms for 12 megapixels where this takes 52 (measured).
            picture = picture.resize(size, Image.Resampling.HAMMING, reducing_gap=1.5)
        picture.info["icc_profile"] = opened.info.get("icc_profile")
    return picture.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else picture


def _size_within(size: tuple[int, int], longest_side_px: int) -> tuple[int, int]:
    scale = min(1.0, longest_side_px / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    if min(width, height) < PORTRAIT_MIN_SIDE_PX:
        raise InvalidImage(reason="too_small")
    return width, height


def _close_enough(size: tuple[int, int]) -> tuple[int, int]:
    width, height = (max(math.ceil(side * JPEG_CLOSE_ENOUGH), PORTRAIT_MIN_SIDE_PX) for side in size)
    return width, height


def _jpeg_scans(upload: bytes) -> int:
    """Scan markers of the first picture in the file. What follows it (a second picture, a film) does not count.

    Raises InvalidImage, too_complex, for more segments, or more between them, than any camera writes.
    """
    scans = segments = between = position = 0
    while found := _JPEG_MARKER.search(upload, position):
        segments += 1
        between += 0 if scans else found.start() - position
        if segments > JPEG_MAX_SEGMENTS or between > JPEG_MAX_BYTES_BETWEEN:
            raise InvalidImage(reason="too_complex")
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        position += max(2, int.from_bytes(upload[position : position + 2]))
    return scans


def _webp_canvas_pixels(upload: bytes) -> int:
    """From the header of any of the three kinds (RFC 9649); 0 where it cannot be told, which Pillow then refuses."""
    kind = upload[12:16]
    if kind == b"VP8X":
        width, height = int.from_bytes(upload[24:27], "little") + 1, int.from_bytes(upload[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(upload[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(upload[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return 0
    return width * height


def _orientation(opened: Image.Image) -> int:
    try:
        return int(opened.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a sound picture may carry broken metadata; it is dropped anyway
        return 1


def _jpeg(picture: Image.Image) -> bytes:
    for quality in JPEG_QUALITIES:
        jpeg = encoded(picture, "JPEG", quality=quality)
        if len(jpeg) <= JPEG_MAX_BYTES:
            return jpeg
    raise InvalidImage(reason="too_complex")
