"""The memory of a process that serves for long: its C heap kept small, its collector spared what stays."""

import ctypes
import gc
import os
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
ARENAS = 2
MAPPED_FROM_BYTES = 256 * 1024
# Of up to 16 MB each, kept by Pillow for the next picture; a portrait of 12 megapixels needs two at a time.
PICTURE_BLOCKS = 2


def share_heaps() -> None:
    """Let threads share two heaps: glibc would give each its own, and none ever gives back what one picture took.

    A worker that had made 600 photos took 125 MB instead of 136, and no longer (measured). What is as large as a
    picture is mapped by itself and goes back to the system at once; glibc would raise the bound to 32 MB by and by, and
    keep the most that there ever was at one time (after rushes 132 MB instead of 137, and flat).

    Pillow alone keeps a little. That the memory of every picture was new to the process cost a portrait of 12
    megapixels 6,000 page faults, 30 ms instead of 20, and a photo 25 ms instead of 22 (measured). Call it first: Pillow
    reads its setting when it is imported.
    """
    os.environ.setdefault("PILLOW_BLOCKS_MAX", str(PICTURE_BLOCKS))
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, ARENAS)
            mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)


def freeze_heap() -> None:
    """Let the cyclic collector leave alone what is there now, modules and all. Call it once the process is ready.

    It would look through all of that again and again: a third of what a poll cost (measured).
    """
    gc.collect()
    gc.freeze()
