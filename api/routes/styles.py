"""The catalogue of looks."""

from fastapi import APIRouter

from api.schemas import StyleOut
from api.studio_files import PREFIX
from shared.styles import STYLES

router = APIRouter(tags=["styles"])


@router.get("/styles")
async def list_styles() -> list[StyleOut]:
    """Every style one can ask for, with its names in Korean and English."""
    return [
        StyleOut(
            key=entry.style,
            label_ko=entry.label_ko,
            label_en=entry.label_en,
            description_ko=entry.description_ko,
            description_en=entry.description_en,
            sample_url=f"{PREFIX}samples/{entry.style}.webp",
        )
        for entry in STYLES.values()
    ]
