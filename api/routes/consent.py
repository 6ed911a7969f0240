"""What a user agrees to before they upload a portrait."""

from fastapi import APIRouter

from api.dependencies import LanguageDep, PartsDep
from api.schemas import ConsentOut
from shared.consent import consent_text

router = APIRouter(tags=["consent"])


@router.get("/consent")
async def get_consent(parts: PartsDep, language: LanguageDep) -> ConsentOut:
    """The text to show beside a box that is not ticked yet, in the reader's language, and its version.

    Send the version as `consent` with `POST /jobs` when the user has ticked it. The version changes with every word and
    with every time that the text names, so ask for it when the form is shown.
    """
    text = consent_text(parts.settings)
    return ConsentOut(
        version=text.version,
        required=parts.settings.consent_required,
        language=language,
        text=text.in_language(language),
    )
