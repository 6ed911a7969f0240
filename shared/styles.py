"""The catalogue of looks: what the user reads about a style, and what the generator is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

VARIATIONS = 4  # one for each of a job's photos


class Style(StrEnum):
    CLASSIC = "CLASSIC"
    MODERN = "MODERN"
    VINTAGE = "VINTAGE"
    ROMANTIC = "ROMANTIC"
    CINEMATIC = "CINEMATIC"


class Role(StrEnum):
    GROOM = "GROOM"
    BRIDE = "BRIDE"


@dataclass(frozen=True, slots=True)
class StyleEntry:
    """One look.

    Attributes:
        core: the words that make the look; the same in all of its photos.
        groom, bride: what that person wears in this look.
        variations: pose, framing and light, by slot; four that differ on purpose, so that four photos are a choice.
    """

    style: Style
    label_ko: str
    label_en: str
    description_ko: str
    description_en: str
    core: str
    groom: str
    bride: str
    variations: tuple[str, str, str, str]


_NEUTRAL_ATTIRE = "wedding attire"

_LIKENESS = (
    "Keep this person's face exactly as it is in the reference photo: the same features, face shape, skin tone, age, "
    "hairline and natural expression, recognisable at first sight, with no beautifying changes."
)
_PICTURE = "One person alone in the picture, a real photograph, natural hands and skin texture, no text, no watermark."

_ENTRIES = (
    StyleEntry(
        style=Style.CLASSIC,
        label_ko="클래식",
        label_en="Classic",
        description_ko="고운 한복에 은은한 조명을 더한 단아한 스튜디오 사진",
        description_en="A graceful hanbok studio portrait in soft light",
        core="elegant traditional Korean wedding hanbok, soft lighting, professional studio photography",
        groom="a groom's traditional Korean wedding hanbok with an embroidered silk durumagi coat",
        bride="a bride's traditional Korean wedding hanbok with a silk jeogori and a full embroidered skirt",
        variations=(
            "Head and shoulders, facing the camera, a calm smile, a plain ivory hanji wall behind, even soft light",
            "Half figure, turned slightly to the left, a hanok's lattice door behind, light from the window",
            "Half figure under a plum tree in blossom in a palace courtyard, looking gently past the camera, late sun",
            "Three-quarter figure seated upright, hands resting, a folding screen of peonies behind, lantern light",
        ),
    ),
    StyleEntry(
        style=Style.MODERN,
        label_ko="모던",
        label_en="Modern",
        description_ko="군더더기 없는 배경과 자연광, 화보처럼 세련된 사진",
        description_en="An editorial portrait: clear lines, daylight, nothing superfluous",
        core="contemporary wedding dress, minimalist background, natural light, editorial style",
        groom="a contemporary, sharply tailored wedding suit (a suit, not a dress)",
        bride="a contemporary, clean-cut satin wedding dress",
        variations=(
            "Head and shoulders, straight on, a quiet look into the camera, a seamless off-white wall, soft daylight",
            "Half figure beside a tall window, body in profile, face towards the camera, bars of sunlight on the wall",
            "Half figure walking, caught in motion, a light laugh, before pale concrete architecture, open shade",
            "Full figure, small in a wide empty white room, one white calla lily in the hand, high side light",
        ),
    ),
    StyleEntry(
        style=Style.VINTAGE,
        label_ko="빈티지",
        label_en="Vintage",
        description_ko="오래된 필름에서 꺼낸 듯, 따스한 세피아빛 사진",
        description_en="Warm sepia, as if found on an old roll of film",
        core="vintage wedding attire, warm sepia tones, romantic atmosphere, film photography",
        groom="a vintage three-piece wedding suit with a boutonniere",
        bride="a vintage lace wedding dress with long sleeves and a short veil",
        variations=(
            "Head and shoulders in an old portrait studio, painted backdrop, a shy smile, soft lamp from the left",
            "Half figure on the steps of an old stone house, looking down at a small bouquet, hazy morning sun",
            "Half figure at the window of an old train, looking out, a light leak at the film's edge, golden hour",
            "Three-quarter figure in a garden chair under a rose arbour, relaxed pose, dappled afternoon light",
        ),
    ),
    StyleEntry(
        style=Style.ROMANTIC,
        label_ko="로맨틱",
        label_en="Romantic",
        description_ko="파스텔빛이 번지는, 꿈결처럼 포근한 사진",
        description_en="Pastel colours and light like a daydream",
        core="romantic wedding scene, soft focus, dreamy lighting, pastel colors",
        groom="a light pastel-toned wedding suit with a flower in the buttonhole",
        bride="a flowing tulle wedding dress with flowers in the hair",
        variations=(
            "Head and shoulders among pale roses, a tender smile into the camera, blurred blossoms in front, backlight",
            "Half figure in a blooming garden, looking over the shoulder, petals in the air, low golden sun",
            "Half figure under strings of warm lights at dusk, eyes half closed, a peaceful smile, glowing bokeh",
            "Three-quarter figure on a meadow, holding a loose bouquet, a breeze in the hair, misty morning light",
        ),
    ),
    StyleEntry(
        style=Style.CINEMATIC,
        label_ko="시네마틱",
        label_en="Cinematic",
        description_ko="영화의 한 장면처럼 깊은 빛과 그림자를 담은 사진",
        description_en="Deep light and shadow, like a still from a film",
        core="cinematic wedding portrait, dramatic lighting, high fashion, magazine cover",
        groom="a black haute couture tuxedo with satin lapels",
        bride="a sculptural haute couture wedding gown",
        variations=(
            "Close head and shoulders, a direct gaze, before darkness, one hard light from the right, a rim of light",
            "Half figure in a grand hall's doorway, body turned away, face towards the camera, a shaft of hazy light",
            "Half figure on a rooftop at night, blurred city lights far behind, wind-blown, teal and amber light",
            "Full figure from a low angle on a marble staircase, a commanding pose, chandelier light from above",
        ),
    ),
)

STYLES: Mapping[Style, StyleEntry] = MappingProxyType({entry.style: entry for entry in _ENTRIES})


def build_prompt(style: Style, role: Role | None, slot: int, variation_shift: int = 0) -> str:
    """The prompt for one photo.

    Args:
        slot: 0..3, which of the job's photos; chooses the variation.
        variation_shift: moves on to another variation, for an attempt after one that the provider's moderation refused.

    Raises:
        ValueError: `slot` is not 0..3.
    """
    if not 0 <= slot < VARIATIONS:
        raise ValueError(f"slot must be 0..{VARIATIONS - 1}, not {slot}")
    entry = STYLES[style]
    variation = entry.variations[(slot + variation_shift) % VARIATIONS]
    match role:
        case Role.GROOM:
            person = f"the groom, wearing {entry.groom}"
        case Role.BRIDE:
            person = f"the bride, wearing {entry.bride}"
        case None:
            person = f"wearing {_NEUTRAL_ATTIRE}"
    return (
        f"Wedding portrait of the person in the reference photo, {person}. {entry.core}. "
        f"{variation}. {_LIKENESS} {_PICTURE}"
    )
