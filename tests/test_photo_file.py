"""What is stored of a prediction's output: a sound JPEG that says how it was made, and nothing about anybody."""

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Literal
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageChops, ImageStat
from PIL.JpegImagePlugin import JpegImageFile

from shared.photo_file import InvalidPhoto, PhotoFile, prepare_photo
from tests import photos

IPTC_EXTENSION = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
XMP_BASIC = "{http://ns.adobe.com/xap/1.0/}"
DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def opened(file: PhotoFile) -> JpegImageFile:
    with Image.open(BytesIO(file.body)) as picture:
        picture.load()
    assert isinstance(picture, JpegImageFile)
    return picture


def blank(width: int, height: int, image_format: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    out = BytesIO()
    Image.new(mode, (width, height), "white").save(out, image_format, **options)
    return out.getvalue()


@pytest.mark.parametrize(("made_by_ai", "term"), [(True, "trainedAlgorithmicMedia"), (False, "composite")])
def test_the_label_says_how_it_was_made(made_by_ai: bool, term: str) -> None:
    xmp = opened(prepare_photo(photos.one_face(), made_by_ai=made_by_ai)).info["xmp"]
    descriptions = list(ElementTree.fromstring(xmp).iter(DESCRIPTION))
    assert len(descriptions) == 1
    assert {name: value for name, value in descriptions[0].attrib.items() if not name.endswith("}about")} == {
        f"{IPTC_EXTENSION}DigitalSourceType": SOURCE_TYPES + term,
        f"{XMP_BASIC}CreatorTool": "Cuggu photos",
    }
    assert list(descriptions[0]) == []


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_every_format_becomes_the_same_kind_of_file(image_format: Literal["JPEG", "PNG", "WEBP"]) -> None:
    file = prepare_photo(photos.one_face_as(image_format), made_by_ai=True)
    picture = opened(file)
    assert (file.content_type, file.width, file.height) == ("image/jpeg", 512, 512)
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (512, 512))
    assert file.sha256 == sha256(file.body).hexdigest()
    with Image.open(BytesIO(photos.one_face())) as original:
        difference = ImageStat.Stat(ImageChops.difference(picture, original.convert("RGB"))).mean
    assert max(difference) < 4


def test_what_the_output_carried_is_gone() -> None:
    carried = photos.rotated_with_gps(6)
    assert photos.CAMERA.encode() in carried
    old_label = blank(300, 300, "JPEG", xmp=b"<x>somebody</x>", comment=b"somebody")
    for body in (carried, old_label):
        file = prepare_photo(body, made_by_ai=True)
        picture = opened(file)
        assert dict(picture.getexif()) == {}
        assert [name for name, _ in picture.applist] == ["APP0", "APP1"]
        assert "comment" not in picture.info
        assert photos.CAMERA.encode() not in file.body
        assert b"somebody" not in file.body
    assert (prepare_photo(carried, made_by_ai=True).width, prepare_photo(carried, made_by_ai=True).height) == (480, 640)


def test_a_labelled_photo_keeps_exactly_one_label() -> None:
    once = prepare_photo(photos.one_face(), made_by_ai=True)
    assert prepare_photo(once.body, made_by_ai=True).body.count(b"trainedAlgorithmicMedia") == 1


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_picture_byte_for_byte(progressive: bool) -> None:
    body = picture_of(quality=70, progressive=progressive, comment=b"somebody")
    file = prepare_photo(body + b"somebody's film", made_by_ai=True)
    assert pixels(file.body) == pixels(body)
    assert len(file.body) < len(body) + 1000
    assert b"somebody" not in file.body
    assert file.body.endswith(b"\xff\xd9")
    with Image.open(BytesIO(file.thumbnail)) as small:
        near = ImageStat.Stat(ImageChops.difference(small, pixels_as_picture(body).resize(small.size))).mean
    assert max(near) < 12


def picture_of(**options: object) -> bytes:
    out = BytesIO()
    pixels_as_picture(photos.one_face()).save(out, "JPEG", **options)
    return out.getvalue()


def pixels_as_picture(body: bytes) -> Image.Image:
    with Image.open(BytesIO(body)) as picture:
        return picture.convert("RGB")


def pixels(body: bytes) -> bytes:
    return pixels_as_picture(body).tobytes()


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2) + content


@pytest.mark.parametrize(
    "unusual",
    [
        lambda body: body[:2] + b"\xff" + body[2:],
        lambda body: body[:2] + b"\xff\0" + body[2:],
        lambda body: body[:-2] + segment(0xFE, b"somebody") + body[-2:],
        lambda body: body[:2] + segment(0xE0, b"JFXX\0\x13" + b"somebody") + body[2:],
        lambda body: body[:2] + segment(0xEE, b"Adobe" + b"somebody") + body[2:],
    ],
    ids=["fill byte", "between segments", "after a scan", "thumbnail", "not Adobe's"],
)
def test_whatever_an_unusual_jpeg_carries_is_not_handed_on(unusual: Callable[[bytes], bytes]) -> None:
    body = picture_of(quality=90)
    file = prepare_photo(unusual(body), made_by_ai=True)
    assert b"somebody" not in file.body
    assert max(ImageStat.Stat(ImageChops.difference(opened(file), pixels_as_picture(body))).mean) < 2


def test_the_same_output_gives_the_same_file() -> None:
    assert prepare_photo(photos.one_face(), made_by_ai=True) == prepare_photo(photos.one_face(), made_by_ai=True)


def test_transparency_becomes_white() -> None:
    picture = opened(prepare_photo(photos.palette_with_transparency(), made_by_ai=True))
    corner = picture.getpixel((5, 5))
    assert isinstance(corner, tuple)
    assert min(corner) > 250


@pytest.mark.parametrize("size", [(256, 256), (4096, 256)])
def test_sizes_within_the_bounds_are_kept(size: tuple[int, int]) -> None:
    file = prepare_photo(blank(*size), made_by_ai=True)
    assert (file.width, file.height) == size


@pytest.mark.parametrize(
    "body",
    [
        b"",
        photos.not_an_image(),
        photos.truncated(),
        photos.one_face_as("PNG")[:9000],
        photos.one_face_as("GIF"),
        photos.heic(),
        blank(255, 600),
        blank(4097, 300),
        photos.pixel_bomb(30_000, 30_000),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "GIF", "HEIC", "too small", "too large", "bomb"],
)
def test_what_no_user_should_get_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidPhoto):
        prepare_photo(body, made_by_ai=True)


def noise(width: int, height: int) -> bytes:
    """As hard to make small as a picture can be."""
    out = BytesIO()
    Image.effect_noise((width, height), 120).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_a_thumbnail_is_small_whatever_the_photo_is_and_says_nothing_about_anybody() -> None:
    for body in (photos.one_face(), photos.rotated_with_gps(6), blank(900, 1200), noise(1536, 2048)):
        file = prepare_photo(body, made_by_ai=True)
        with Image.open(BytesIO(file.thumbnail), formats=["WEBP"]) as small:
            small.load()
            assert max(small.size) in (96, 144, 192)
            assert abs(small.width / small.height - file.width / file.height) < 0.02
            assert not {"exif", "xmp"} & small.info.keys()
        assert len(file.thumbnail) <= 2400
