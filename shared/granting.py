"""The use case: credits from somebody who is not their user, each grant with who gave it. Joins the transaction."""

from uuid import UUID

from sqlalchemy.orm import Session

from shared import credits, staff_actions
from shared.staff_actions import Actor

# Ours, so that no payment's number can take one: a staff form's (api/routes/admin_forms.py), and a free retry's.
STAFF_PREFIX, RETRY_PREFIX = "staff:", "retry:"


def grant(
    session: Session, actor: Actor, user_id: UUID, amount: int, reference: str, reason: str | None = None
) -> tuple[int, bool]:
    """As `credits.grant`, which says what is raised; a repetition is written down, too, as what it was."""
    balance, granted = credits.grant(session, user_id, amount, reference)
    told = {"amount": amount, "reference": reference, **({"reason": reason} if reason else {})}
    name = "credits.granted" if granted else "credits.grant_repeated"
    staff_actions.record(session, actor, name, told, user_id=user_id)
    return balance, granted
