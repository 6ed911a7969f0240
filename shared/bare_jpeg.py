"""A JPEG file freed of all that is not its picture, which itself stays as it is, byte for byte."""

import re

# Between segments: restart marks (D0-D7) and stuffed zeros have no length and belong to the picture.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_STANDALONE, _START, _END, _SCAN, _XMP, _COMMENT = 0x01, 0xD8, 0xD9, 0xDA, 0xE1, 0xFE
_APPLICATION = range(0xE0, 0xF0)
# The two that say how the picture is to be read. Larger ones hold something else as well, such as a thumbnail.
_JFIF, _ADOBE = 0xE0, 0xEE
_NEEDED = {_JFIF: (b"JFIF\0", 16), _ADOBE: (b"Adobe", 14)}
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_MAX_BYTES = 65_533


def bare_jpeg(body: bytes, xmp: bytes) -> bytes | None:
    """The same picture with this XMP packet and no other metadata; None for a file of an unusual build.

    What follows the picture is cut off. Whether the picture itself can be decoded is not looked at.
    """
    own = _XMP_NAME + xmp
    if len(own) > _SEGMENT_MAX_BYTES or not body.startswith(b"\xff\xd8"):
        return None
    kept, at, scanning = [b"\xff\xd8"], 2, False
    label = b"\xff" + bytes([_XMP]) + (len(own) + 2).to_bytes(2) + own
    while found := _MARKER.search(body, at):
        marker = found[1][0]
        if found.start() != at and not scanning:
            return None  # something stands between two segments
        kept.append(body[at : found.start()])
        if marker == _END:
            return b"".join([*kept, b"\xff\xd9"])
        size = int.from_bytes(body[found.end() : found.end() + 2])
        end = found.end() + size
        if marker in (_STANDALONE, _START) or size < 2 or end > len(body):
            return None
        name, needed_size = _NEEDED.get(marker, (b"", None))
        needed = size == needed_size and body.startswith(name, found.end() + 2)
        foreign = marker == _COMMENT or (marker in _APPLICATION and not needed)
        if foreign and scanning:
            return None
        if marker != _JFIF and label:  # JFIF's own stands first
            kept.append(label)
            label = b""
        if not foreign:
            kept.append(body[found.start() : end])
        at, scanning = end, scanning or marker == _SCAN
    return None
