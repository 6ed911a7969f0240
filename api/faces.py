"""The port to the face check, and the one rule by which every adapter's findings are judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# A second face counts when its area is at least this share of the main one's. Measured over 552 photographs:
# passers-by and pictures on the wall fall below it, a couple or a group never does.
SECOND_FACE_AREA_SHARE = 0.25
# The main face must be this wide, as a share of the picture's longest side, to give the generator a likeness.
MAIN_FACE_WIDTH_SHARE = 0.05


class FaceVerdict(StrEnum):
    ONE = "ONE"
    NONE = "NONE"
    SEVERAL = "SEVERAL"
    TOO_SMALL = "TOO_SMALL"


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face found, in pixels of the picture that was looked at."""

    left: float
    top: float
    width: float
    height: float


class FaceChecker(Protocol):
    async def check(self, jpeg: bytes, width: int, height: int) -> FaceVerdict:
        """Look for faces in an upright JPEG of `width` x `height` pixels and at most 6 MB.

        Raises:
            FaceCheckUnavailable: the checker could not look; never the user's fault.
        """

    async def close(self) -> None: ...


def judge(faces: Sequence[FaceBox], width: int, height: int) -> FaceVerdict:
    """Exactly one face is accepted; faces much smaller than the main one are taken for background.

    Known limits: this proves one face-like thing, not a living person. Drawings, 3D renders and some dogs pass.
    """
    if not faces:
        return FaceVerdict.NONE
    main, *others = sorted(faces, key=lambda face: face.width * face.height, reverse=True)
    if any(face.width * face.height >= SECOND_FACE_AREA_SHARE * main.width * main.height for face in others):
        return FaceVerdict.SEVERAL
    if main.width < MAIN_FACE_WIDTH_SHARE * max(width, height):
        return FaceVerdict.TOO_SMALL
    return FaceVerdict.ONE
