"""The models we order from at Replicate: how our order becomes a model's input.

Each must keep the person's face: flux-1.1-pro is not here because its only picture field (`image_prompt`, Flux Redux)
guides the composition and gives a stranger's face; google/nano-banana is not because its upstream is being retired.
Field names and ranges: the models' API pages on replicate.com. Re-read them with `GET /v1/models/{owner}/{name}`
before changing anything here; official models promise stable schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shared.model_prices import PRICES_USD


@dataclass(frozen=True, slots=True)
class ReplicateModel:
    """One official model.

    Attributes:
        photo_field: where the portrait's address goes; as the only item of a list where `photo_is_list`.
        fixed: the rest of the input, the same in every order: 3:4, JPEG, about one megapixel, safety.
        takes_seed: it repeats a picture by `seed`, which is also how we find a prediction whose answer was lost.
    """

    name: str
    photo_field: str
    photo_is_list: bool
    fixed: Mapping[str, Any]
    takes_seed: bool

    @property
    def price_usd(self) -> Decimal:
        """Of one output picture, for the books."""
        return PRICES_USD[self.name]

    def input_for(self, prompt: str, portrait: str, seed: int) -> dict[str, Any]:
        """The `input` object of one prediction; `portrait` is an https: or data: address."""
        photo = [portrait] if self.photo_is_list else portrait
        drawn = {"seed": seed} if self.takes_seed else {}
        return {"prompt": prompt, self.photo_field: photo, **self.fixed, **drawn}


_MODELS = (
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
    ),
    # Takes no webp; safety above 2 is refused with an input image.
    ReplicateModel(
        name="black-forest-labs/flux-kontext-pro",
        photo_field="input_image",
        photo_is_list=False,
        fixed={"aspect_ratio": "3:4", "output_format": "jpg", "safety_tolerance": 2},
        takes_seed=True,
    ),
    # No seed, no format and no safety field; gives a list.
    ReplicateModel(
        name="bytedance/seedream-4",
        photo_field="image_input",
        photo_is_list=True,
        fixed={"aspect_ratio": "3:4", "size": "2K", "sequential_image_generation": "disabled"},
        takes_seed=False,
    ),
)

MODELS: Mapping[str, ReplicateModel] = {model.name: model for model in _MODELS}


def model_named(name: str) -> ReplicateModel:
    """The model of that name. Raises ValueError, naming those there are."""
    if name not in MODELS:
        raise ValueError(f"REPLICATE_MODEL={name} is not known; choose one of: {', '.join(MODELS)}")
    return MODELS[name]
