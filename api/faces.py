"""The port to the face check, and the one rule by which every adapter's findings are judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.settings import Settings

# A second face counts when its area is at least this share of the main one's. Measured over 552 photographs:
# passers-by and pictures on the wall fall below it, a couple or a group never does.
SECOND_FACE_AREA_SHARE = 0.25
# The main face must be this wide, as a share of the picture's longest side, to give the generator a likeness.
MAIN_FACE_WIDTH_SHARE = 0.05
# Azure Face finds no face below 36 px. Even a blank JPEG of this size has the 1 KB that it asks for.
PORTRAIT_MIN_SIDE_PX = 200


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

    @property
    def area(self) -> float:
        return self.width * self.height


class FaceChecker(Protocol):
    async def check(self, jpeg: bytes, width: int, height: int) -> FaceVerdict:
        """Look for faces in an upright JPEG of `width` x `height` pixels and at most 6 MB.

        Raises:
            FaceCheckUnavailable: the checker could not look; never the user's fault.
        """

    async def close(self) -> None:
        """Let go of connections; the checker is not used afterwards."""


def judge(main: FaceBox | None, others: Sequence[FaceBox], width: int, height: int) -> FaceVerdict:
    """Exactly one face is accepted in a picture of `width` x `height` pixels.

    `main` is the largest face that the adapter is sure of, `others` are all the rest that it found.

    A small face in the background is overlooked: somebody who walks by, a picture on the wall. It counts, and the
    verdict is SEVERAL, once its area reaches SECOND_FACE_AREA_SHARE of the main face's, that is half of it in width
    and height. The rule looks at the boxes alone, so it makes no difference whether an adapter's detector is keen
    enough to report a face that small. Whether the faces are too many is asked before whether they are too small.

    Known limits: this proves one face-like thing, not a living person. Drawings, 3D renders and some dogs pass.
    """
    if main is None:
        return FaceVerdict.NONE
    if any(face.area >= SECOND_FACE_AREA_SHARE * main.area for face in others):
        return FaceVerdict.SEVERAL
    if main.width < MAIN_FACE_WIDTH_SHARE * max(width, height):
        return FaceVerdict.TOO_SMALL
    return FaceVerdict.ONE


def open_face_checker(settings: Settings) -> FaceChecker:
    """The adapter that the settings name; to be used in one event loop only."""
    if settings.face_checker == "azure":
        from api.azure_faces import AzureFaceChecker  # noqa: PLC0415 - imports the SDK

        return AzureFaceChecker(settings)
    from api.local_faces import LocalFaceChecker  # noqa: PLC0415 - production installs have no OpenCV

    return LocalFaceChecker(settings)
