"""Any decoded picture as plain sRGB pixels: nothing to see through, no profile, no metadata."""

from io import BytesIO

from PIL import Image, ImageCms


def with_smooth_mode(picture: Image.Image) -> Image.Image:
    """The picture in a mode that can be resized smoothly: palettes and single bits spread, 16 bits cut to 8."""
    if picture.mode.startswith("I"):
        return picture.point(lambda value: value / 256).convert("L")
    if picture.mode == "P":
        return picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode == "1":
        return picture.convert("L")
    if "transparency" in picture.info and picture.mode in ("L", "RGB"):
        return picture.convert(f"{picture.mode}A")
    return picture


def flat_srgb(picture: Image.Image) -> Image.Image:
    """RGB on white, converted by the ICC profile in `info` where there is one; `info` is empty afterwards.

    A profile that cannot be read, or is for another kind of picture, is ignored, as viewers do.
    """
    flat = picture
    if flat.mode in ("RGBA", "LA"):
        opaque = flat.mode.removesuffix("A")
        flat = Image.new(opaque, picture.size, "white")
        flat.paste(picture.convert(opaque), mask=picture.getchannel("A"))
    flat = _converted(flat, picture.info.get("icc_profile")).convert("RGB")
    flat.info.clear()  # Pillow writes a comment found there into the next file
    return flat


def _converted(picture: Image.Image, icc_profile: bytes | None) -> Image.Image:
    if not icc_profile:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc_profile))
        return ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB") or picture
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
