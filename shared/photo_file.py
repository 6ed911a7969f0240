"""From a prediction's output to the file that is stored: checked, plain, and labelled with how it was made.

The label stands in the XMP always, in signed Content Credentials where there is a certificate, and for people to see
where it is wished.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image, ImageOps

from shared.bare_jpeg import bare_jpeg
from shared.content_credentials import TOOL, PhotoSigner
from shared.encoding import encoded
from shared.flat_picture import flat_srgb, with_smooth_mode
from shared.thumbnail import LONGEST_SIDE_PX, make_thumbnail
from shared.visible_mark import mark_visibly

MIN_SIDE_PX = 256
MAX_SIDE_PX = 4096
JPEG_QUALITY = 92
_ORIENTATION_TAG = 0x0112

# IPTC NewsCodes, scheme digitalsourcetype: "Created using Generative AI", and "Composite of elements" for the local
# preview, which sets the portrait into drawn scenery. `compositeSynthetic` would claim generative AI elements.
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE_BY_AI = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
COMPOSED = f"{_SOURCE_TYPES}composite"

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="{tool}"
    Iptc4xmpExt:DigitalSourceType="{source_type}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


class InvalidPhoto(Exception):
    """The output is not a photo that we may give to a user; the message says why, for our eyes only."""


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo as it is stored."""

    body: bytes
    content_type: str
    width: int
    height: int
    sha256: str  # hex, of `body`
    thumbnail: bytes  # see shared/thumbnail.py


def prepare_photo(
    body: bytes, *, made_by_ai: bool, marked: bool = False, signer: PhotoSigner | None = None
) -> PhotoFile:
    """Check an output and make the file to store. Without a signer, the same bytes give the same file.

    `marked` has a photo made by AI say so for everybody to see, and its thumbnail with it.

    Raises:
        InvalidPhoto: it is no photo to store.
        NotSigned: the signer could not sign it.
    """
    xmp = _XMP.format(tool=TOOL, source_type=MADE_BY_AI if made_by_ai else COMPOSED).encode()
    marked = marked and made_by_ai
    kept = None if marked else _kept_as_it_is(body, xmp)
    if kept is None:
        picture = mark_visibly(read_photo(body)) if marked else read_photo(body)
        jpeg = encoded(picture, "JPEG", quality=JPEG_QUALITY, xmp=xmp)
        kept = _Labelled(jpeg, picture.size, make_thumbnail(picture))
    jpeg = kept.jpeg if signer is None else signer.sign(kept.jpeg, MADE_BY_AI if made_by_ai else COMPOSED)
    return PhotoFile(jpeg, "image/jpeg", *kept.size, sha256(jpeg).hexdigest(), kept.thumbnail)


@dataclass(frozen=True, slots=True)
class _Labelled:
    jpeg: bytes
    size: tuple[int, int]
    thumbnail: bytes


def _kept_as_it_is(body: bytes, xmp: bytes) -> _Labelled | None:
    """An upright sRGB JPEG needs another label and no other picture: no quality is lost, and half the time is saved.

    It is decoded to its last line all the same, small: as large as the thumbnail. None for any other file.
    """
    with _opened(body) as opened:
        plain = opened.format == "JPEG" and opened.mode == "RGB" and "icc_profile" not in opened.info
        if not plain or opened.getexif().get(_ORIENTATION_TAG, 1) != 1:
            return None
        size = opened.size
        opened.draft("RGB", (LONGEST_SIDE_PX, LONGEST_SIDE_PX))
        opened.load()
        jpeg = bare_jpeg(body, xmp)
        return None if jpeg is None else _Labelled(jpeg, size, make_thumbnail(opened))


def read_photo(body: bytes) -> Image.Image:
    """Decode an output whole: JPEG, PNG or WebP, each side 256 to 4096 px; upright RGB without metadata.

    Raises:
        InvalidPhoto: it is none of these, of another size, or cannot be decoded to its last line.
    """
    with _opened(body) as opened:
        opened.load()
        return flat_srgb(with_smooth_mode(ImageOps.exif_transpose(opened)))


@contextmanager
def _opened(body: bytes) -> Iterator[Image.Image]:
    """An output that is a picture of a right size. Raises InvalidPhoto, also for what its decoder raises inside."""
    try:
        with Image.open(BytesIO(body), formats=["JPEG", "PNG", "WEBP"]) as opened:
            if min(opened.size) < MIN_SIDE_PX or max(opened.size) > MAX_SIDE_PX:  # known before anything is decoded
                raise InvalidPhoto(f"{opened.width} x {opened.height} pixels")
            yield opened
    except InvalidPhoto:
        raise
    except Exception as error:  # whatever a decoder raises over a bad file
        raise InvalidPhoto(f"not decodable: {error}") from error
