"""The models we order from at Replicate: how our order becomes a model's input, and what a picture of it costs.

Each must keep the person's face: flux-1.1-pro is not here because its only picture field (`image_prompt`, Flux Redux)
guides the composition and gives a stranger's face; google/nano-banana is not because its upstream is being retired.
Field names and ranges: the models' API pages on replicate.com. Re-read them with `GET /v1/models/{owner}/{name}`
before changing anything here; official models promise stable schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class ReplicateModel:
    """One official model.

    Attributes:
        photo_field: where the portrait's address goes; as the only item of a list where `photo_is_list`.
        fixed: the rest of the input, the same in every order: 3:4, JPEG, about one megapixel, safety.
        takes_seed: it repeats a picture by `seed`, which is also how we find a prediction whose answer was lost.
        price_usd: of one output picture, for the books. Replicate bills official image models by the picture.
    """

    name: str
    photo_field: str
    photo_is_list: bool
    fixed: Mapping[str, Any]
    takes_seed: bool
    price_usd: Decimal

    def input_for(self, prompt: str, portrait: str, seed: int) -> dict[str, Any]:
        """The `input` object of one prediction; `portrait` is an https: or data: address."""
        photo = [portrait] if self.photo_is_list else portrait
        drawn = {"seed": seed} if self.takes_seed else {}
        return {"prompt": prompt, self.photo_field: photo, **self.fixed, **drawn}


_MODELS = (
    # $0.015 a run, and as much again for each megapixel in and out: about $0.045 for one portrait of 1 MP and one
    # photo of 1 MP. From third parties, not confirmed on the price page; a portrait of 3 MP may cost $0.03 more.
    ReplicateModel(
        name="black-forest-labs/flux-2-pro",
        photo_field="input_images",
        photo_is_list=True,
        fixed={
            "aspect_ratio": "3:4",
            "resolution": "1 MP",
            "output_format": "jpg",
            "output_quality": 95,
            "safety_tolerance": 2,  # 1 (strictest) .. 5
        },
        takes_seed=True,
        price_usd=Decimal("0.045"),
    ),
    # $0.04 a picture (Replicate's price list, 2025). Takes no webp; safety above 2 is refused with an input image.
    ReplicateModel(
        name="black-forest-labs/flux-kontext-pro",
        photo_field="input_image",
        photo_is_list=False,
        fixed={"aspect_ratio": "3:4", "output_format": "jpg", "safety_tolerance": 2},
        takes_seed=True,
        price_usd=Decimal("0.04"),
    ),
    # $0.03 a picture, from third parties; one of them books 0.04. No seed, no format and no safety field; gives a list.
    ReplicateModel(
        name="bytedance/seedream-4",
        photo_field="image_input",
        photo_is_list=True,
        fixed={"aspect_ratio": "3:4", "size": "2K", "sequential_image_generation": "disabled"},
        takes_seed=False,
        price_usd=Decimal("0.03"),
    ),
)

MODELS: Mapping[str, ReplicateModel] = {model.name: model for model in _MODELS}


def model_named(name: str) -> ReplicateModel:
    """The model of that name. Raises ValueError, naming those there are."""
    if name not in MODELS:
        raise ValueError(f"REPLICATE_MODEL={name} is not known; choose one of: {', '.join(MODELS)}")
    return MODELS[name]
