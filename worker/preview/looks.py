"""The five looks as data: backdrop, flowers, light and line of each style, slot by slot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from shared.styles import Style
from worker.preview import backdrops
from worker.preview.backdrops import Backdrop
from worker.preview.flowers import Colour, Tint
from worker.preview.garlands import Flora
from worker.preview.portrait_grade import Grade


@dataclass(frozen=True, slots=True)
class Scene:
    """One slot of a look.

    Attributes:
        colours: for the backdrop, from the top downwards, then its light.
        line: the deep and the bright colour of the window's line.
        petals: how many are in the air.
        vignette: 0..1, how much the corners darken.
    """

    backdrop: Backdrop
    colours: Sequence[Colour]
    flora: Flora
    grade: Grade
    line: tuple[Colour, Colour]
    petals: int
    vignette: float


def _rgb(code: str) -> Colour:
    return int(code[0:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:6], 16) / 255


def _tint(deep: str, middle: str, bright: str, heart: str = "dcae4c") -> Tint:
    return Tint(_rgb(deep), _rgb(middle), _rgb(bright), _rgb(heart))


def _colours(codes: str) -> Sequence[Colour]:
    return tuple(_rgb(code) for code in codes.split())


def _grade(shadows: str, highlights: str, air: str, **numbers: float) -> Grade:
    return Grade(shadows=_rgb(shadows), highlights=_rgb(highlights), air=_rgb(air), **numbers)


_GOLD = (_rgb("9a7434"), _rgb("f6e2a8"))
_PALE_GOLD = (_rgb("b08d57"), _rgb("fff0cf"))
_WHITE = (_rgb("d9d4cc"), _rgb("ffffff"))
_BRASS = (_rgb("6e4e24"), _rgb("d8b57a"))

_IVORY = _tint("a08c6c", "ece0c8", "fffaf0")
_WHITE_BLOOM = _tint("9c988e", "e8e4dc", "ffffff")
_SAGE = _tint("33443a", "74887a", "b9c6b6")
_DEEP_SAGE = _tint("22332b", "4b6354", "8ea48f")

_PEONIES = Flora(
    focal=[("peony", _tint("7a1c2c", "c8475a", "f6b6b4")), ("peony", _tint("8e2c3c", "d9707c", "fbd6cf"))],
    second=[
        ("peony", _IVORY),
        ("rose", _tint("94404a", "e09a98", "fde4da")),
        ("plum", _tint("b0505c", "eeb0b0", "fff0ea")),
    ],
    small=[("plum", _tint("b0505c", "f0b8b8", "fff4ee")), ("plum", _tint("b8a890", "f6ece0", "ffffff"))],
    leaves=[("rose_leaf", _tint("173028", "33594a", "7c9f86")), ("rose_leaf", _tint("20423a", "4f7a68", "a2c0a6"))],
    stem=_rgb("4a3328"),
    fullness=0.95,
    woody=True,
)
_WHITES = Flora(
    focal=[("anemone", _tint("a09c96", "eeebe6", "ffffff", "20242c")), ("rose", _WHITE_BLOOM)],
    second=[("ranunculus", _WHITE_BLOOM), ("rose", _IVORY)],
    small=[("ranunculus", _WHITE_BLOOM), ("plum", _WHITE_BLOOM)],
    leaves=[("eucalyptus", _DEEP_SAGE), ("eucalyptus", _tint("4b5d58", "8fa39b", "ccd7cf")), ("olive", _SAGE)],
    stem=_rgb("77857a"),
    fullness=0.7,
)
_DUSTY = Flora(
    focal=[("rose", _tint("7c4a3c", "c6937c", "f2d6c0")), ("ranunculus", _tint("84604c", "d4ac8c", "f8e6cc"))],
    second=[("rose", _tint("8c6a50", "dcc09c", "fbf0d8")), ("ranunculus", _tint("6c3c34", "a8685a", "e4b8a4"))],
    small=[("ranunculus", _tint("94744e", "e0c898", "fff4d8")), ("plum", _tint("a08468", "ead8ba", "fffaea"))],
    leaves=[("rose_leaf", _tint("38351f", "686440", "a8a27a")), ("olive", _tint("4c4a30", "868258", "beb88e"))],
    stem=_rgb("786a48"),
)
_BLUSH = Flora(
    focal=[("rose", _tint("b05c64", "f0aeae", "fff0ec")), ("peony", _tint("b8707c", "f4c2c4", "fff4f2"))],
    second=[("ranunculus", _tint("bc7c5c", "f8caae", "fff2e4")), ("rose", _tint("b49890", "f8e8e2", "ffffff"))],
    small=[("plum", _tint("c49898", "fbe4e2", "ffffff")), ("ranunculus", _tint("a880a0", "e2c4de", "fbf0fa"))],
    leaves=[("rose_leaf", _tint("39523f", "728c72", "b2c6a8")), ("eucalyptus", _tint("58726a", "98b0a4", "d4e0d4"))],
    stem=_rgb("8aa088"),
    fullness=1.12,
)
_DARK_ROSES = Flora(
    focal=[("rose", _tint("26040c", "761826", "d05c5c")), ("peony", _tint("2c0814", "86283c", "dc8078"))],
    second=[("rose", _tint("4c1c10", "b05c30", "f4bc84")), ("ranunculus", _tint("30101c", "723046", "c88490"))],
    small=[("ranunculus", _tint("5c3010", "c08444", "fbdca0")), ("plum", _tint("5c1c28", "a84c50", "eaa898"))],
    leaves=[("rose_leaf", _tint("060e10", "16302e", "44645c")), ("rose_leaf", _tint("0c1a1a", "24443e", "62847a"))],
    stem=_rgb("1c2c28"),
)

_CLASSIC = _grade(
    "40382e", "fff4e2", "efe6d4", toning=0.10, saturation=1.02, contrast=1.04, lift=0.03, glow=0.22, haze=0.50
)
_CLASSIC_NIGHT = _grade(
    "22304c", "fff0d2", "33425a", toning=0.16, saturation=1.0, contrast=1.08, lift=0.02, glow=0.26, haze=0.52
)
_MODERN = _grade(
    "30343a", "fbfaf6", "e6e3de", toning=0.10, saturation=0.80, contrast=1.12, lift=0.02, glow=0.10, haze=0.48
)
_MODERN_GREY = _grade(
    "222326", "fbfaf8", "c2c3c5", toning=1.0, saturation=0.0, contrast=1.22, lift=0.02, glow=0.10, haze=0.45
)
_VINTAGE = _grade(
    "4a3018", "f8e4b8", "d2b88c", toning=0.46, saturation=0.72, contrast=0.96, lift=0.09, glow=0.18, haze=0.46
)
_SEPIA = _grade(
    "402810", "f6e2b8", "b89a6c", toning=1.0, saturation=0.0, contrast=1.02, lift=0.10, glow=0.20, haze=0.50
)
_ROMANTIC = _grade(
    "6a4450", "fff0e8", "f6dcd8", toning=0.14, saturation=1.0, contrast=0.96, lift=0.05, glow=0.52, haze=0.52
)
_ROMANTIC_DUSK = _grade(
    "4c3a66", "ffe6d4", "8c6c94", toning=0.18, saturation=1.0, contrast=1.0, lift=0.04, glow=0.50, haze=0.50
)
_CINEMATIC = _grade(
    "0a2a34",
    "ffd9a4",
    "0e2028",
    toning=0.26,
    saturation=0.98,
    contrast=1.22,
    lift=0.0,
    glow=0.12,
    haze=0.86,
    shade=0.55,
)
_CINEMATIC_WARM = _grade(
    "1c0a10",
    "ffd4a0",
    "1e0a0e",
    toning=0.22,
    saturation=0.98,
    contrast=1.20,
    lift=0.0,
    glow=0.14,
    haze=0.86,
    shade=0.50,
)

LOOKS: Mapping[Style, Sequence[Scene]] = MappingProxyType(
    {
        Style.CLASSIC: (
            Scene(
                backdrops.ink_mountains,
                _colours("f3ead8 e9dfca c3ccba 4f6f66 fff8e6"),
                _PEONIES,
                _CLASSIC,
                _GOLD,
                8,
                0.10,
            ),
            Scene(backdrops.paper_lattice, _colours("f2e8d2 e6d8ba a58a68 fffaea"), _PEONIES, _CLASSIC, _GOLD, 0, 0.16),
            Scene(
                backdrops.ink_mountains,
                _colours("141f3c 3c4d70 4a5c7c 0d1730 fff6e2"),
                _PEONIES,
                _CLASSIC_NIGHT,
                _GOLD,
                14,
                0.25,
            ),
            Scene(backdrops.plaster_arch, _colours("d8e2d6 c2d0c2 fbfdf4"), _PEONIES, _CLASSIC, _GOLD, 10, 0.12),
        ),
        Style.MODERN: (
            Scene(backdrops.window_light, _colours("dcd8d1 c8c2b8 fffaf0"), _WHITES, _MODERN, _PALE_GOLD, 0, 0.06),
            Scene(backdrops.plaster_arch, _colours("dedfdd cfd0cd ffffff"), _WHITES, _MODERN, _WHITE, 0, 0.06),
            Scene(backdrops.studio, _colours("8c8e92 5e6166 d6d7d8"), _WHITES, _MODERN_GREY, _WHITE, 0, 0.22),
            Scene(backdrops.studio, _colours("efece6 e4e0d8 ffffff"), _WHITES, _MODERN, _PALE_GOLD, 0, 0.04),
        ),
        Style.VINTAGE: (
            Scene(backdrops.aged_paper, _colours("dcc69c c6a978 7c5632 f6e8c4"), _DUSTY, _VINTAGE, _BRASS, 0, 0.26),
            Scene(backdrops.drapery, _colours("a4876a 7c6048 f0d6aa"), _DUSTY, _VINTAGE, _BRASS, 0, 0.30),
            Scene(backdrops.evening_lights, _colours("3c2a20 6a4a30 8c6640 ffd894"), _DUSTY, _VINTAGE, _GOLD, 0, 0.34),
            Scene(backdrops.aged_paper, _colours("cdb488 b59868 6c4828 ecdab0"), _DUSTY, _SEPIA, _BRASS, 0, 0.40),
        ),
        Style.ROMANTIC: (
            Scene(
                backdrops.bokeh_garden,
                _colours("f4dcc8 ecc2b6 c8a8a4 94a888 fff0dc"),
                _BLUSH,
                _ROMANTIC,
                _PALE_GOLD,
                22,
                0.08,
            ),
            Scene(backdrops.plaster_arch, _colours("f4dcd8 e8c6c2 fff6f0"), _BLUSH, _ROMANTIC, _PALE_GOLD, 28, 0.08),
            Scene(
                backdrops.evening_lights,
                _colours("4c3f78 8c6694 d89aa0 ffe0b0"),
                _BLUSH,
                _ROMANTIC_DUSK,
                _PALE_GOLD,
                14,
                0.16,
            ),
            Scene(backdrops.bokeh_garden, _colours("fbe8e6 f2d4d8 e6d0e4 fff4f0"), _BLUSH, _ROMANTIC, _WHITE, 40, 0.05),
        ),
        Style.CINEMATIC: (
            Scene(
                backdrops.city_bokeh,
                _colours("07131c 0f2a34 14181c 3a98a0 f0a450"),
                _DARK_ROSES,
                _CINEMATIC,
                _GOLD,
                0,
                0.42,
            ),
            Scene(backdrops.drapery, _colours("561220 24070e e89a7c"), _DARK_ROSES, _CINEMATIC_WARM, _GOLD, 0, 0.46),
            Scene(
                backdrops.evening_lights,
                _colours("070d20 131c38 2a2438 ffc678"),
                _DARK_ROSES,
                _CINEMATIC,
                _GOLD,
                0,
                0.40,
            ),
            Scene(
                backdrops.city_bokeh,
                _colours("0a0d12 131a20 0c0e10 7c4a30 ffb060"),
                _DARK_ROSES,
                _CINEMATIC_WARM,
                _BRASS,
                0,
                0.56,
            ),
        ),
    }
)
