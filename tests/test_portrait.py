"""What becomes of an upload: an upright, flat, nameless JPEG, or a refusal that says why."""

import shutil
import struct
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from random import Random
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageStat
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from api import heic_decoder
from api.heic_decoder import HeicDecoderUnusable
from api.portrait import JPEG_MAX_BYTES, Portrait, read_portrait
from shared.errors import InvalidImage
from tests import photos

REASONS = {"not_an_image", "broken", "too_many_pixels", "too_small", "too_complex"}


def read(upload: bytes, max_pixels: int = 50_000_000, longest_side_px: int = 2048) -> Portrait:
    return read_portrait(upload, max_pixels=max_pixels, longest_side_px=longest_side_px)


def refusal(upload: bytes, max_pixels: int = 50_000_000) -> object:
    with pytest.raises(InvalidImage) as refused:
        read(upload, max_pixels)
    return refused.value.details["reason"]


def pixels(jpeg: bytes) -> Image.Image:
    with Image.open(BytesIO(jpeg), formats=["JPEG"]) as picture:
        picture.load()
        return picture


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference per channel, 0..255."""
    assert (one.size, one.mode) == (other.size, other.mode)
    return float(sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / len(one.getbands()))


def colour(picture: Image.Image, at: tuple[int, int]) -> tuple[int, int, int]:
    return cast(tuple[int, int, int], picture.getpixel(at))


def saved(picture: Image.Image, image_format: str, **options: object) -> bytes:
    out = BytesIO()
    picture.save(out, image_format, **options)
    return out.getvalue()


def astronaut() -> Image.Image:
    return pixels(photos.one_face())


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), Random(7).randbytes(width * height * 3))


# --- What is taken


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_common_formats_are_read(image_format: str) -> None:
    upload = photos.one_face_as(image_format)
    portrait = read(upload)
    assert (portrait.width, portrait.height) == pixels(portrait.jpeg).size == (512, 512)
    assert difference(pixels(portrait.jpeg), astronaut()) < 4
    assert portrait.jpeg_sha256 == sha256(portrait.jpeg).hexdigest()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(image_format: str) -> None:
    portrait = read(photos.animated(image_format))
    assert difference(pixels(portrait.jpeg), astronaut()) < 4


def test_a_jpeg_of_several_pictures_is_its_first() -> None:
    assert difference(pixels(read(photos.multi_picture()).jpeg), astronaut()) < 4


def test_a_film_after_the_picture_does_not_count_as_scans() -> None:
    film = Random(3).randbytes(8_000_000)
    assert film.count(b"\xff\xda") > 64
    assert read(photos.one_face() + film).jpeg == read(photos.one_face()).jpeg


def test_a_few_extra_scans_are_harmless() -> None:
    assert read(photos.many_scans(3)).width == 2000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright(orientation: int) -> None:
    upright = pixels(read(photos.rotated_with_gps(1)).jpeg)
    turned = pixels(read(photos.rotated_with_gps(orientation)).jpeg)
    assert turned.size == (480, 640)
    assert difference(turned, upright) < 3


@pytest.mark.parametrize("orientation", [None, 3, 5, 6, 8])
def test_a_heic_is_turned_once(orientation: int | None) -> None:
    upright = pixels(read(photos.rotated_with_gps(1)).jpeg)
    turned = pixels(read(photos.heic(orientation)).jpeg)
    assert turned.size == (480, 640)
    assert difference(turned, upright) < 6


def test_an_orientation_after_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = saved(astronaut().resize((400, 300)), "PNG", exif=exif)
    chunk = upload.index(b"eXIf") - 4
    end = chunk + 12 + int.from_bytes(upload[chunk : chunk + 4])
    last = upload.index(b"IEND") - 4
    moved = upload[:chunk] + upload[end:last] + upload[chunk:end] + upload[last:]
    portrait = read(moved)
    assert (portrait.width, portrait.height) == (300, 400)


# --- What is left of it


@pytest.mark.parametrize("upload", [photos.rotated_with_gps, photos.heic], ids=["jpeg", "heic"])
def test_place_and_camera_are_gone(upload: Callable[[int], bytes]) -> None:
    original = upload(6)
    assert photos.CAMERA.encode() in original
    assert_bare(read(original).jpeg)


def test_comments_texts_profiles_and_appendices_are_gone() -> None:
    secret = b"secret"
    texts = PngInfo()
    texts.add_text("Comment", "secret")
    texts.add_itxt("XML:com.adobe.xmp", "<x>secret</x>")
    for upload in (
        saved(astronaut(), "JPEG", comment=secret, xmp=b"<x>secret</x>", dpi=(300, 300)) + secret,
        saved(astronaut(), "PNG", pnginfo=texts) + secret,
        saved(astronaut(), "WEBP", xmp=b"<x>secret</x>", icc_profile=swapped_profile()),
    ):
        jpeg = read(upload).jpeg
        assert secret not in jpeg
        assert_bare(jpeg)


def assert_bare(jpeg: bytes) -> None:
    assert photos.CAMERA.encode() not in jpeg
    picture = pixels(jpeg)
    assert (picture.mode, dict(picture.getexif())) == ("RGB", {})
    assert isinstance(picture, JpegImageFile)
    assert [name for name, _ in picture.applist] == ["APP0"]
    assert set(picture.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("upload", [photos.palette_with_transparency, photos.grey_with_alpha], ids=["palette", "grey"])
def test_transparency_becomes_white(upload: Callable[[], bytes]) -> None:
    picture = pixels(read(upload()).jpeg)
    assert min(colour(picture, (5, 5))) > 250
    assert min(colour(picture, (635, 635))) > 250
    inside = picture.crop((64, 64, 576, 576))
    assert difference(inside.convert("L"), astronaut().convert("L")) < 8


def test_a_transparent_colour_of_a_png_becomes_white() -> None:
    picture = astronaut()
    picture.paste((1, 2, 3), (0, 0, 50, 50))
    found = pixels(read(saved(picture, "PNG", transparency=(1, 2, 3))).jpeg)
    assert min(colour(found, (10, 10))) > 250


def test_a_half_transparent_pixel_is_half_white() -> None:
    upload = saved(Image.new("RGBA", (300, 300), (255, 0, 0, 128)), "PNG")
    red, green, blue = colour(pixels(read(upload).jpeg), (100, 100))
    assert red > 250
    assert abs(green - 127) < 5
    assert abs(blue - 127) < 5


def test_print_colours_and_deep_greys_keep_their_look() -> None:
    assert difference(pixels(read(photos.cmyk()).jpeg), astronaut()) < 6
    deep = pixels(read(photos.sixteen_bit()).jpeg)
    assert difference(deep.convert("L"), astronaut().convert("L")) < 4


def swapped_profile() -> bytes:
    """A sound ICC profile in which red and blue have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp.", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp.", b"bXYZ", 1)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_an_embedded_profile_is_turned_into_srgb(image_format: str) -> None:
    upload = saved(Image.new("RGB", (300, 300), (250, 0, 0)), image_format, icc_profile=swapped_profile())
    red, _, blue = colour(pixels(read(upload).jpeg), (100, 100))
    assert red < 60 < 200 < blue


def test_a_profile_that_is_none_is_ignored() -> None:
    plain = saved(astronaut(), "JPEG", quality=92)
    assert read(saved(astronaut(), "JPEG", quality=92, icc_profile=b"not a profile")).jpeg == read(plain).jpeg
    grey = saved(astronaut().convert("L"), "JPEG", icc_profile=swapped_profile())
    assert difference(pixels(read(grey).jpeg).convert("L"), astronaut().convert("L")) < 4


# --- How large it may be


@pytest.mark.parametrize("upload", [photos.twelve_megapixels, photos.nearly_ten_megabytes])
def test_large_pictures_shrink_to_the_limit_or_to_half_their_size_where_that_is_close(
    upload: Callable[[], bytes],
) -> None:
    portrait = read(upload())
    assert (portrait.width, portrait.height) == pixels(portrait.jpeg).size == (2000, 1500)
    assert 1024 <= len(portrait.jpeg) < JPEG_MAX_BYTES


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((4000, 3000), (2000, 1500)),  # a half is close enough
        ((4096, 3072), (2048, 1536)),  # a half is exact
        ((3600, 2700), (2048, 1536)),  # a half would lack more than a tenth
        ((3000, 4000), (1500, 2000)),
        ((2000, 1500), (2000, 1500)),  # small enough as it is
        ((4000, 398), (2048, 204)),  # a half would have too short a side
        ((3000, 4097), (1500, 2048)),  # a half is rounded up, and would be too long by a pixel
    ],
)
def test_a_jpeg_lacks_a_tenth_of_its_longest_side_at_the_most(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    portrait = read(saved(astronaut().resize(size), "JPEG"))
    assert (portrait.width, portrait.height) == pixels(portrait.jpeg).size == shrunk


def test_other_pictures_shrink_to_the_limit_itself() -> None:
    assert read(saved(astronaut().resize((4000, 3000)), "PNG")).width == 2048
    assert read(saved(astronaut().resize((1000, 2049)), "PNG")).height == 2048


def test_a_picture_decoded_at_half_its_size_shows_the_same() -> None:
    small = noise(2000, 2000).convert("L")
    doubled = small.resize((4000, 4000), Image.Resampling.NEAREST)
    decoded = pixels(read(saved(doubled, "JPEG", quality=98)).jpeg).convert("L")
    assert difference(decoded, small) < 15 < difference(ImageChops.offset(decoded, 1, 0), small)


def test_the_worst_to_compress_stays_below_six_megabytes() -> None:
    portrait = read(saved(noise(3600, 3600), "JPEG", quality=90), longest_side_px=3600)
    assert (portrait.width, portrait.height) == (3600, 3600)
    assert len(portrait.jpeg) <= JPEG_MAX_BYTES


def test_even_a_blank_picture_has_the_kilobyte_that_azure_asks_for() -> None:
    assert len(read(saved(Image.new("RGB", (200, 200), "white"), "PNG")).jpeg) >= 1024


@pytest.mark.parametrize("size", [(199, 900), (900, 199), (1, 1), (8000, 700)])
def test_what_is_too_small_or_becomes_so_is_refused(size: tuple[int, int]) -> None:
    assert refusal(saved(Image.new("RGB", size), "PNG")) == "too_small"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_pixel_cap_is_read_from_the_header() -> None:
    assert refusal(photos.pixel_bomb()) == "too_many_pixels"
    assert refusal(photos.pixel_bomb(60_000, 60_000)) == "too_many_pixels"
    for image_format in ("JPEG", "PNG", "WEBP"):
        upload = photos.one_face_as(image_format)
        assert refusal(upload, max_pixels=512 * 512 - 1) == "too_many_pixels"
        assert read(upload, max_pixels=512 * 512).width == 512
    assert refusal(photos.heic(), max_pixels=480 * 640 - 1) == "too_many_pixels"


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_a_webp_canvas_is_never_allocated_beyond_the_cap(kind: bytes) -> None:
    side = 16_383
    body = {
        b"VP8X": struct.pack("<I", 0x10) + (side - 1).to_bytes(3, "little") * 2,
        b"VP8L": b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little"),
        b"VP8 ": b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", side, side),
    }[kind]
    chunk = kind + struct.pack("<I", len(body)) + body + bytes(100)
    upload = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    assert refusal(upload) == "too_many_pixels"


@pytest.mark.parametrize("image_format", ["JPEG", "lossless", "lossy", "with alpha"])
def test_the_size_of_every_kind_of_webp_is_understood(image_format: str) -> None:
    picture = noise(300, 260)
    if image_format == "with alpha":
        picture.putalpha(128)
    upload = saved(picture, "JPEG" if image_format == "JPEG" else "WEBP", lossless=image_format == "lossless")
    assert refusal(upload, max_pixels=300 * 260 - 1) == "too_many_pixels"
    portrait = read(upload, max_pixels=300 * 260)
    assert (portrait.width, portrait.height) == (300, 260)


# --- What is refused


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_not_taken(image_format: str) -> None:
    assert refusal(photos.one_face_as(image_format)) == "not_an_image"


@pytest.mark.parametrize("upload", [b"", b"\xff", photos.not_an_image(), b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9])
def test_what_is_no_picture_is_refused(upload: bytes) -> None:
    assert refusal(upload) == "not_an_image"


@pytest.mark.parametrize(
    "upload",
    [
        photos.truncated(),
        photos.one_face_as("PNG")[:9000],
        photos.one_face_as("WEBP")[:9000],
        photos.heic()[:9000],
        photos.one_face()[:3],
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"\x00\x00\x00\x18ftypheic",
    ],
    ids=["jpeg", "png", "webp", "heic", "jpeg head", "png head", "webp head", "heic head"],
)
def test_what_is_cut_off_is_broken(upload: bytes) -> None:
    assert refusal(upload) == "broken"


def test_scans_upon_scans_are_too_complex() -> None:
    assert refusal(photos.many_scans()) == "too_complex"
    assert refusal(photos.many_scans(80)) == "too_complex"


def test_fewer_scans_over_more_pixels_are_too_complex_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.portrait.JPEG_MAX_SCANNED_PIXELS", 12_000_000 * 13)
    assert refusal(photos.many_scans(4)) == "too_complex"
    assert read(photos.many_scans(3)).width == 2000


@pytest.mark.parametrize(
    "filling", [b"\xff\xfe\x00\x02", b"\xff\xe2\x00\x02", b"\xff\xdd\x00\x04\x00\x00", b"\xff", b"\x00"]
)
def test_a_jpeg_of_empty_segments_or_of_nothing_is_too_complex_before_it_is_opened(filling: bytes) -> None:
    began = time.thread_time()
    assert refusal(photos.filled(filling, 10_000_000)) == "too_complex"
    assert time.thread_time() - began < 1
    assert read(photos.filled(filling, 1000)).width == 512


def test_a_heic_whose_items_share_their_bytes_cannot_take_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = heic_with_shared_metadata(items=100, metadata_bytes=4_000_000)
    assert len(bomb) < 5_000_000
    monkeypatch.setattr(heic_decoder, "MEMORY_MAX_BYTES", 300_000_000)
    assert refusal(bomb) in {"broken", "too_complex"}
    assert read(heic_with_shared_metadata(items=2, metadata_bytes=1000)).width == 480


def test_a_heic_cannot_take_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heic_decoder, "WALL_MAX_SECONDS", 0.001)
    assert refusal(photos.heic()) == "too_complex"


def test_a_heic_that_lies_about_its_size_is_broken() -> None:
    honest = photos.heic()
    size = honest.index(b"ispe") + 8
    assert refusal(honest[:size] + struct.pack(">II", 240, 200) + honest[size + 8 :]) == "broken"


def test_a_decoder_that_cannot_run_is_no_fault_of_the_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(HeicDecoderUnusable):
        read(photos.heic())


def heic_with_shared_metadata(items: int, metadata_bytes: int) -> bytes:
    """photos.heic() with so many metadata items, all of them lying upon the same bytes of the file."""
    plain = photos.heic()
    meta = plain.index(b"meta") - 4
    parts, at = {}, meta + 12
    while at < meta + int.from_bytes(plain[meta : meta + 4]):
        length = int.from_bytes(plain[at : at + 4])
        parts[plain[at + 4 : at + 8]] = plain[at : at + length]
        at += length
    picture_at, picture_size = struct.unpack(">I6xI", parts[b"iloc"][20:34])
    picture = plain[picture_at : picture_at + picture_size]
    ids = range(2, 2 + items)

    def box(kind: bytes, *body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + sum(map(len, body)), kind) + b"".join(body)

    def whole(start: int) -> bytes:
        places = [(1, start, picture_size)] + [(item, start + picture_size, metadata_bytes) for item in ids]
        parts[b"iloc"] = box(
            b"iloc",
            struct.pack(">IBBH", 0, 0x44, 0x40, len(places)),
            *(struct.pack(">HHIHII", item, 0, offset, 1, 0, length) for item, offset, length in places),
        )
        return plain[:meta] + box(b"meta", bytes(4), *parts.values())

    kinds = [(1, b"hvc1"), *((item, b"Exif") for item in ids)]
    parts[b"iinf"] = box(
        b"iinf",
        struct.pack(">IH", 0, len(kinds)),
        *(box(b"infe", struct.pack(">IHH4sx", 2 << 24, item, 0, kind)) for item, kind in kinds),
    )
    references = (box(b"cdsc", struct.pack(">HHH", item, 1, 1)) for item in ids)
    parts[b"iref"] = box(b"iref", bytes(4), *references)
    return whole(len(whole(0)) + 8) + box(b"mdat", picture, struct.pack(">I", 0), bytes(metadata_bytes))


# --- Whatever comes


def check_anything(upload: bytes) -> None:
    reason = None
    try:
        portrait = read(upload, max_pixels=1_000_000, longest_side_px=400)
    except InvalidImage as refused:
        reason = refused.details["reason"]
    if reason is not None:
        assert reason in REASONS
    else:
        assert pixels(portrait.jpeg).size == (portrait.width, portrait.height)
        assert max(portrait.width, portrait.height) <= 400


SMALL = {
    "JPEG": saved(noise(8, 8).resize((240, 220)), "JPEG", progressive=True),
    "PNG": saved(noise(8, 8).resize((240, 220)).convert("RGBA"), "PNG"),
    "WEBP": saved(noise(8, 8).resize((240, 220)), "WEBP"),
}
MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x10\x00\x00WEBPVP8X", b"RIFF\x00\x10\x00\x00WEBPVP8 "]
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=6)


def changed(upload: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """Each change puts some bytes in at a place (a share of the length) and takes some out after them."""
    for place, put, taken in changes:
        at = int(place * len(upload))
        upload = upload[:at] + put + upload[at + taken :]
    return upload


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(magic: bytes, rest: bytes) -> None:
    check_anything(magic + rest)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(SMALL)), CHANGES, st.floats(0.1, 1))
def test_a_damaged_picture_is_read_or_refused(
    image_format: str, changes: list[tuple[float, bytes, int]], kept: float
) -> None:
    damaged = changed(SMALL[image_format], changes)
    check_anything(damaged[: int(len(damaged) * kept) + 1])


@settings(max_examples=12, deadline=None)
@given(CHANGES)
def test_a_damaged_heic_is_read_or_refused(changes: list[tuple[float, bytes, int]]) -> None:
    head, body = photos.heic()[:600], photos.heic()[600:]
    check_anything(changed(head, changes) + body)
