"""From a prediction's output to the file that is stored: checked, plain, and labelled with how it was made.

The label stands in the XMP always, in signed Content Credentials where there is a certificate, and for people to see
where it is wished.
"""

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image, ImageOps

from shared.content_credentials import TOOL, PhotoSigner
from shared.flat_picture import flat_srgb, with_smooth_mode
from shared.thumbnail import make_thumbnail
from shared.visible_mark import mark_visibly

MIN_SIDE_PX = 256
MAX_SIDE_PX = 4096
JPEG_QUALITY = 92

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
    picture = read_photo(body)
    if marked and made_by_ai:
        picture = mark_visibly(picture)
    return label_photo(picture, made_by_ai=made_by_ai, signer=signer)


def read_photo(body: bytes) -> Image.Image:
    """Decode an output whole: JPEG, PNG or WebP, each side 256 to 4096 px; upright RGB without metadata.

    Raises:
        InvalidPhoto: it is none of these, of another size, or cannot be decoded to its last line.
    """
    try:
        with Image.open(BytesIO(body), formats=["JPEG", "PNG", "WEBP"]) as opened:
            if min(opened.size) < MIN_SIDE_PX or max(opened.size) > MAX_SIDE_PX:  # known before anything is decoded
                raise InvalidPhoto(f"{opened.width} x {opened.height} pixels")
            opened.load()
            return flat_srgb(with_smooth_mode(ImageOps.exif_transpose(opened)))
    except InvalidPhoto:
        raise
    except Exception as error:  # whatever a decoder raises over a bad file
        raise InvalidPhoto(f"not decodable: {error}") from error


def label_photo(picture: Image.Image, *, made_by_ai: bool, signer: PhotoSigner | None = None) -> PhotoFile:
    """A JPEG of an RGB picture; it says how it was made and with what tool, and nothing else. Raises NotSigned."""
    source_type = MADE_BY_AI if made_by_ai else COMPOSED
    xmp = _XMP.format(tool=TOOL, source_type=source_type)
    out = BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY, xmp=xmp.encode())
    body = out.getvalue()
    if signer is not None:
        body = signer.sign(body, source_type)
    return PhotoFile(
        body, "image/jpeg", picture.width, picture.height, sha256(body).hexdigest(), make_thumbnail(picture)
    )
