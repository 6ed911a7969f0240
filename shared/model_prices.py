"""What one photo costs at the provider, by model: for the books of attempts, and for what is in work and not booked."""

from collections.abc import Mapping
from decimal import Decimal

from shared.settings import Settings

# In USD, of one output picture. Replicate bills official image models by the picture.
PRICES_USD: Mapping[str, Decimal] = {
    # $0.015 a run, and as much again for each megapixel in and out: about $0.045 for one portrait of 1 MP and one
    # photo of 1 MP. From third parties, not confirmed on the price page; a portrait of 3 MP may cost $0.03 more.
    "black-forest-labs/flux-2-pro": Decimal("0.045"),
    # $0.04 a picture (Replicate's price list, 2025).
    "black-forest-labs/flux-kontext-pro": Decimal("0.04"),
    # $0.03 a picture, from third parties; one of them books 0.04.
    "bytedance/seedream-4": Decimal("0.03"),
}


def expected_price_usd(settings: Settings) -> Decimal:
    """Of a photo that these settings would have made now. A preview is free, an unknown model as dear as any."""
    if settings.predictor != "replicate":
        return Decimal(0)
    return PRICES_USD.get(settings.replicate_model, max(PRICES_USD.values()))
