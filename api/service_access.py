"""Another system's right to call us: its service token, believed for what it was made for."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from api.dependencies import SessionDep
from shared import service_tokens
from shared.errors import Unauthorized
from shared.staff_actions import Actor
from shared.staff_models import Scope


async def granting_service(
    request: Request,
    session: SessionDep,
    _documented: Annotated[object, Depends(HTTPBearer(auto_error=False, scheme_name="ServiceToken"))] = None,
) -> Actor:
    """Who grants. Raises Unauthorized; guessing is not counted, because nobody guesses 256 bits."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized
    async with session.begin():
        return Actor.service(await session.run_sync(service_tokens.use, token.strip(), Scope.GRANTS))


GrantingServiceDep = Annotated[Actor, Depends(granting_service, scope="function")]
