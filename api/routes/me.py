"""The user, and where their credits went."""

from fastapi import APIRouter

from api.dependencies import SessionDep, UserDep
from api.schemas import CreditsOut, LedgerEntryOut, MeOut
from shared import credits
from shared.models import User

router = APIRouter(tags=["me"])


@router.get("/me")
async def get_me(session: SessionDep, user_id: UserDep) -> MeOut:
    """Who you are to us."""
    user = await session.get_one(User, user_id)
    return MeOut(id=user.id, email=user.email, credits=user.credits)


@router.get("/me/credits")
async def get_credits(session: SessionDep, user_id: UserDep) -> CreditsOut:
    """Your balance and the ledger that makes it up, newest entry first."""
    user = await session.get_one(User, user_id)
    entries = await session.run_sync(credits.ledger, user_id)
    return CreditsOut(
        credits=user.credits,
        entries=[LedgerEntryOut.model_validate(entry, from_attributes=True) for entry in entries],
    )
