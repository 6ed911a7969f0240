"""A mark that people see: the photo was made by AI. Small, in a corner, legible on light and on dark."""

from PIL import Image, ImageDraw

from shared.lettering import lettering

WORDS = ("AI", "생성", "·  AI-generated")

_HEIGHT = 0.02  # of a syllable, as a share of the shorter side
_SMALLEST_PX = 9
# White on white under this much shade has a contrast of 4.9 to 1; WCAG 2.2 asks for 4.5.
_SHADE = 0.56
_FINE = 4  # the corners of the shade are drawn this much larger, then reduced


def mark_visibly(picture: Image.Image) -> Image.Image:
    """A copy of an RGB picture, of 256 px or more a side, with the mark in its lower right corner."""
    height = max(_SMALLEST_PX, round(min(picture.size) * _HEIGHT))
    words = lettering(WORDS, height)
    pad_x, pad_y = height * 2 // 3, height // 2
    width, depth = words.width + 2 * pad_x, words.height + 2 * pad_y
    left, top = picture.width - width - height, picture.height - depth - height
    marked = picture.copy()
    marked.paste("black", (left, top), _shade(width, depth))
    marked.paste("white", (left + pad_x, top + pad_y), words)
    return marked


def _shade(width: int, depth: int) -> Image.Image:
    sheet = Image.new("L", (width * _FINE, depth * _FINE), 0)
    box = (0, 0, sheet.width - 1, sheet.height - 1)
    ImageDraw.Draw(sheet).rounded_rectangle(box, sheet.height / 2, fill=round(255 * _SHADE))
    return sheet.resize((width, depth), Image.Resampling.LANCZOS)
