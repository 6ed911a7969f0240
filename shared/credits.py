"""The only writer of balances and the ledger. Every function joins the caller's transaction and never commits.

A balance and its ledger entry always change together (I1); constraints decide who was first.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, insert, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import former_addresses
from shared.errors import GrantConflict, InsufficientCredits, NotFound, Unauthorized
from shared.models import LedgerEntry, User
from shared.states import LedgerKind

JOB_COST_CREDITS = 1


def known_as(email: str) -> str:
    """An address as `users` has it."""
    return email.strip().lower()


def provision_user(
    session: Session,
    email: str,
    signup_credits: int,
    *,
    address_key: bytes | None = None,
    proved_at: datetime | None = None,
) -> UUID:
    """The user of this address; made now, with the sign-up grant, if this is the first sight of them.

    Two first requests at once make one user and one grant. With `address_key` (shared/former_addresses.py) an address
    whose account was deleted begins anew with a grant of nothing, and not by a proof that is older than the deletion.

    Raises:
        Unauthorized: the address was proved at `proved_at`, and its account was deleted after that.
    """
    email = known_as(email)
    user_id = session.scalar(select(User.id).where(User.email == email))
    if user_id is not None:
        return user_id
    if address_key is not None and (left_at := former_addresses.left_at(session, email, address_key)) is not None:
        if proved_at is not None and proved_at <= left_at:
            raise Unauthorized
        signup_credits = 0
    created: UUID | None = session.scalar(
        upsert(User).values(email=email).on_conflict_do_nothing(index_elements=[User.email]).returning(User.id)
    )
    if created is None:
        return session.scalars(select(User.id).where(User.email == email)).one()
    _move(session, created, LedgerKind.SIGNUP, signup_credits)
    return created


def charge(session: Session, user_id: UUID, job_id: UUID) -> int:
    """Take the job's credit; the balance that is left.

    Raises:
        InsufficientCredits: with the `balance`; nothing was taken.
    """
    return _move(session, user_id, LedgerKind.CHARGE, -JOB_COST_CREDITS, job_id=job_id)


def refund(session: Session, user_id: UUID, job_id: UUID) -> int:
    """Give the job's credit back; the new balance.

    Raises:
        sqlalchemy.exc.IntegrityError: it was given back before.
    """
    return _move(session, user_id, LedgerKind.REFUND, JOB_COST_CREDITS, job_id=job_id)


def grant(session: Session, user_id: UUID, amount: int, reference: str) -> tuple[int, bool]:
    """Add credits that were paid for or given: (balance, whether this call granted them).

    The same `reference` grants once, whoever repeats it and however often.

    Raises:
        ValueError: `amount` is not positive.
        GrantConflict: the reference already granted something else.
    """
    if amount <= 0:
        raise ValueError("a grant must be of at least one credit")
    # The user's row lock makes two grants of one reference wait for each other instead of failing.
    there = select(User.credits).where(User.id == user_id, User.deleted_at.is_(None))
    balance = session.scalar(there.with_for_update())
    if balance is None:
        raise NotFound
    known = session.scalar(select(LedgerEntry).where(LedgerEntry.reference == reference))
    if known is not None:
        if (known.user_id, known.amount) != (user_id, amount):
            raise GrantConflict(reference=reference)
        return balance, False
    try:
        with session.begin_nested():
            return _move(session, user_id, LedgerKind.GRANT, amount, reference=reference), True
    except IntegrityError as error:  # another user's, at the same moment
        raise GrantConflict(reference=reference) from error


def ledger(session: Session, user_id: UUID, limit: int = 100) -> Sequence[LedgerEntry]:
    """The user's entries, newest first."""
    return session.scalars(
        select(LedgerEntry).where(LedgerEntry.user_id == user_id).order_by(LedgerEntry.id.desc()).limit(limit)
    ).all()


def _move(
    session: Session,
    user_id: UUID,
    kind: LedgerKind,
    amount: int,
    *,
    job_id: UUID | None = None,
    reference: str | None = None,
) -> int:
    # What an account that was given up is owed is still written down; nothing more is taken from it.
    may: ColumnElement[bool] = User.deleted_at.is_(None) if amount < 0 else true()
    balance = session.scalar(
        update(User)
        .where(User.id == user_id, User.credits + amount >= 0, may)
        .values(credits=User.credits + amount)
        .returning(User.credits)
        .execution_options(synchronize_session=False)
    )
    if balance is None:
        left = session.scalar(select(User.credits).where(User.id == user_id, may))
        if left is None:
            raise NotFound
        raise InsufficientCredits(balance=left)
    session.execute(
        insert(LedgerEntry).values(
            user_id=user_id, kind=kind, amount=amount, balance_after=balance, job_id=job_id, reference=reference
        )
    )
    return balance
