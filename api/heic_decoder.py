"""HEIC and HEIF, decoded in a process of their own whose memory and time are bounded.

A HEIF file is a small file system whose items may point at the same bytes again and again. With pillow-heif 1.8 and
libheif 1.23, a 9 MB file whose 400 metadata items share one extent took all the memory there was (5.6 GB) while
being *opened*, and a 50 kB grid of 990 tiles took 4.5 s of CPU for 300 x 300 pixels (measured). No check of the
header can promise to find every such trick, so the operating system keeps the bound; a crash of the native decoder
ends there too.

This file is also the child's script. The child gets no environment, hence no secrets, and imports nothing of ours.
"""

import base64
import json
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

MEMORY_MAX_BYTES = 1024 * 1024 * 1024  # address space; 50 megapixels need about half of it
CPU_MAX_SECONDS = 8  # about three times what 50 megapixels need
WALL_MAX_SECONDS = 30  # for a machine so busy that the CPU seconds do not pass


class HeicRefused(Exception):
    """The file is not decoded; `reason` is a reason of InvalidImage."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HeicDecoderUnusable(Exception):
    """The child could not run at all: the installation is at fault, not the file."""


def decode_heic(upload: bytes, *, max_pixels: int, longest_side_px: int) -> Image.Image:
    """The primary picture, upright, shrunk to `longest_side_px`, 8 bits deep, its ICC profile in `info`.

    The orientation is the container's; the one in the EXIF repeats it and does not count (ISO/IEC 23008-12).

    Raises:
        HeicRefused: broken, too_many_pixels, or too_complex: it needed more than its share of memory or time.
        HeicDecoderUnusable
    """
    bounds = (max_pixels, longest_side_px, MEMORY_MAX_BYTES, CPU_MAX_SECONDS)
    command = [sys.executable, "-I", str(Path(__file__)), *map(str, bounds)]
    try:
        child = subprocess.run(  # noqa: S603 - our own script
            command, input=upload, capture_output=True, env={}, timeout=WALL_MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HeicRefused("too_complex") from error
    if child.returncode < 0:  # by a signal: the CPU bound, no memory left, or a crash of the native decoder
        raise HeicRefused("too_complex")
    if child.returncode > 0:
        raise HeicDecoderUnusable(child.stderr.decode(errors="replace")[-2000:])
    head, _, pixels = child.stdout.partition(b"\n")
    answer = json.loads(head)
    if "refused" in answer:
        raise HeicRefused(answer["refused"])
    picture = Image.frombytes(answer["mode"], (answer["width"], answer["height"]), pixels)
    if answer["icc"]:
        picture.info["icc_profile"] = base64.b64decode(answer["icc"])
    return picture


def _bound_this_process(memory_max_bytes: int, cpu_max_seconds: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # not every system has these limits; the wall clock remains
        import resource  # noqa: PLC0415 - there is none on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_max_seconds, cpu_max_seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory_max_bytes, memory_max_bytes))


def _child(max_pixels: int, longest_side_px: int) -> tuple[dict[str, object], bytes]:
    from pillow_heif import register_heif_opener  # noqa: PLC0415 - libheif stays out of the process that serves

    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    try:
        with Image.open(BytesIO(sys.stdin.buffer.read()), formats=["HEIF"]) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                return {"refused": "too_many_pixels"}, b""
            picture.load()
            icc = picture.info.get("icc_profile") or b""
            shrunk = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA")
            shrunk.thumbnail((longest_side_px, longest_side_px), Image.Resampling.LANCZOS, reducing_gap=1.5)
            head = {"mode": shrunk.mode, "width": shrunk.width, "height": shrunk.height}
            return head | {"icc": base64.b64encode(icc).decode()}, shrunk.tobytes()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return {"refused": "too_many_pixels"}, b""
    except MemoryError:
        return {"refused": "too_complex"}, b""
    except Exception:  # noqa: BLE001 - whatever a decoder raises over a hostile file, the file is at fault
        return {"refused": "broken"}, b""


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    _bound_this_process(*arguments[2:])
    answer, pixels = _child(*arguments[:2])
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)
