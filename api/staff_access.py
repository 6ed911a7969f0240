"""Who may open /admin: staff, by the page's own cookie. To everybody else there is nothing, as at any wrong address."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import Depends, Request

from api.bounded_body import bounded_body
from api.cross_site import refuse_cross_site
from api.dependencies import PartsDep, SessionDep, refuse_development_for_others
from shared import staff
from shared.errors import InvalidRequest, NotFound, Unauthorized
from shared.staff_actions import Actor

FORM_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Staff:
    user_id: UUID
    email: str

    @property
    def actor(self) -> Actor:
        return Actor.staff(self.user_id)


async def staff_member(request: Request, parts: PartsDep, session: SessionDep) -> Staff:
    """Raises NotFound for whoever is no staff, and CrossSite for what another site's page makes a browser send."""
    try:
        refuse_development_for_others(request, parts)
        user_id = parts.session_cookie.user_id(request)
    except Unauthorized:
        user_id = None
    async with session.begin():
        email = None if user_id is None else await session.run_sync(staff.address_of, user_id)
    if user_id is None or email is None:
        raise NotFound
    request.state.staff = True  # from here on refusals are told as a page
    refuse_cross_site(request, parts.settings)
    return Staff(user_id, email)


StaffDep = Annotated[Staff, Depends(staff_member, scope="function")]


async def staff_form(request: Request, _staff: StaffDep) -> dict[str, str]:
    """A form's fields, read only once it is known who sends them, and never more than a form needs."""
    body = await bounded_body(request, FORM_MAX_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise InvalidRequest(reason="this is no form") from error


StaffFormDep = Annotated[dict[str, str], Depends(staff_form)]
