"""Signing in and out of the page: a token, or in development an address, for a cookie."""

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from api.bounded_body import BoundedRoute
from api.cross_site import refuse_cross_site
from api.dependencies import PartsDep, SessionDep, proof_of_token, refuse_development_for_others
from api.schemas import MeOut, ProblemOut, SignInIn
from shared.models import User

router = APIRouter(route_class=BoundedRoute, tags=["session"], responses={"4XX": {"model": ProblemOut}})


@router.post("/session")
async def sign_in(
    request: Request,
    response: Response,
    parts: PartsDep,
    session: SessionDep,
    wish: Annotated[SignInIn | None, Body()] = None,
) -> MeOut:
    """Get a session cookie: for the host site's token as bearer, or, in development only, for an e-mail address."""
    refuse_cross_site(request, parts.settings)  # or another site could sign its reader in as somebody else
    if wish is not None and "authorization" not in request.headers:
        refuse_development_for_others(request, parts)
        user_id = await parts.authenticator.development_user_id(wish.email)
    else:
        user_id = await parts.authenticator.user_id(await proof_of_token(request, parts))
    user = await session.get_one(User, user_id)
    parts.session_cookie.set(response, user.id)
    response.headers["Cache-Control"] = "no-store"
    return MeOut(id=user.id, email=user.email, credits=user.credits)


@router.delete("/session", status_code=204)
async def sign_out(request: Request, response: Response, parts: PartsDep) -> None:
    """Forget the session cookie."""
    refuse_cross_site(request, parts.settings)
    parts.session_cookie.clear(response)
