"""The shop's top-up after a payment: credits for a user, once for each reference."""

from uuid import UUID

import structlog
from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from api.bounded_body import BoundedRoute
from api.dependencies import PartsDep, SessionDep
from api.schemas import GrantIn, GrantOut, ProblemOut
from api.service_access import GrantingServiceDep
from shared import credits, granting, staff_actions
from shared.errors import InvalidRequest, Refusal
from shared.former_addresses import address_key
from shared.models import User
from shared.settings import Settings
from shared.staff_actions import Actor

log = structlog.get_logger()
router = APIRouter(
    route_class=BoundedRoute, prefix="/credits", tags=["service"], responses={"4XX": {"model": ProblemOut}}
)


@router.post("/grants", status_code=201, responses={200: {"model": GrantOut, "description": "granted before"}})
async def grant_credits(
    wish: GrantIn, response: Response, parts: PartsDep, session: SessionDep, service: GrantingServiceDep
) -> GrantOut:
    """Grant credits that were paid for, with a service token. Repeat it until it is answered: it grants once."""
    try:
        async with session.begin():
            granted = await session.run_sync(_grant, service, wish, parts.settings)
    except Refusal as refusal:
        async with session.begin():
            await session.run_sync(_note_refusal, service, wish, refusal.code)
        raise
    response.status_code = 201 if granted.granted else 200
    log.info("credits.granted", user_id=str(granted.user_id), amount=wish.amount, repeated=not granted.granted)
    return granted


def _grant(session: Session, service: Actor, wish: GrantIn, settings: Settings) -> GrantOut:
    if wish.amount > settings.grant_max_credits:
        raise InvalidRequest(fields=["body.amount"], reason=f"at most {settings.grant_max_credits} credits at once")
    user_id = wish.user_id or credits.provision_user(
        session, wish.email or "", settings.signup_credits, address_key=address_key(settings)
    )
    balance, granted = granting.grant(session, service, user_id, wish.amount, wish.reference)
    return GrantOut(user_id=user_id, amount=wish.amount, reference=wish.reference, credits=balance, granted=granted)


def _note_refusal(session: Session, service: Actor, wish: GrantIn, code: str) -> None:
    """Each use of a token is written down, and so one that came to nothing, too."""
    known: UUID | None = wish.user_id if wish.user_id and session.get(User, wish.user_id) else None
    told = {"code": code, "amount": wish.amount, "reference": wish.reference}
    staff_actions.record(session, service, "credits.grant_refused", told, user_id=known)
