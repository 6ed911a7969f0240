"""Balances and the ledger, on a real PostgreSQL: what is charged, given back and granted, and how often."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import credits, jobs
from shared.errors import GrantConflict, InsufficientCredits, NotFound
from shared.states import LedgerKind
from tests.rows import money_is_right, new_job, new_user


def balance(session: Session, user_id: UUID) -> int:
    return session.execute(text("SELECT credits FROM users WHERE id = :id"), {"id": user_id}).scalar_one()


def test_a_credit_is_taken_and_given_back(engine: Engine) -> None:
    """The plan's own check: 2, then 1, then 2 by refund."""
    with Session(engine) as session, session.begin():
        user_id = new_user(session)
        assert balance(session, user_id) == 2
        new = new_job(user_id)
        accepted = jobs.accept(session, new)
        assert accepted is not None
        assert accepted.credits_left == balance(session, user_id) == 1
        assert credits.refund(session, user_id, new.id) == balance(session, user_id) == 2
        kinds = [entry.kind for entry in credits.ledger(session, user_id)]
        assert kinds == [LedgerKind.REFUND, LedgerKind.CHARGE, LedgerKind.SIGNUP]
    money_is_right(engine)


def test_nothing_is_taken_from_an_empty_balance(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_id = new_user(session, credit=0)
    with Session(engine) as session:
        with pytest.raises(InsufficientCredits) as refused:
            jobs.accept(session, new_job(user_id))
        assert refused.value.details == {"balance": 0}
        session.rollback()
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    money_is_right(engine)


@pytest.mark.parametrize("move", [credits.charge, credits.refund])
def test_the_database_forbids_moving_a_jobs_credit_twice(engine: Engine, move: object) -> None:
    with Session(engine) as session, session.begin():
        user_id = new_user(session, credit=5)
        new = new_job(user_id)
        jobs.accept(session, new)
        if move is credits.refund:
            credits.refund(session, user_id, new.id)
    with Session(engine) as session, pytest.raises(IntegrityError, match="uq_ledger_entries_job_id_kind"):
        move(session, user_id, new.id)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE users SET credits = -1", "ck_users_credits_not_negative"),
        (
            "INSERT INTO ledger_entries (user_id, kind, amount, balance_after) SELECT id, 'SIGNUP', 2, 4 FROM users",
            "uq_ledger_entries_one_signup",
        ),
        (
            "INSERT INTO ledger_entries (user_id, kind, amount, balance_after) SELECT id, 'REFUND', 1, 3 FROM users",
            "ck_ledger_entries_job_when_charged_or_refunded",
        ),
        (
            "INSERT INTO ledger_entries (user_id, kind, amount, balance_after) SELECT id, 'GRANT', 1, 3 FROM users",
            "ck_ledger_entries_reference_when_granted",
        ),
    ],
)
def test_the_database_forbids_what_wrong_code_might_do(engine: Engine, statement: str, constraint: str) -> None:
    with Session(engine) as session, session.begin():
        new_user(session)
    with engine.begin() as connection, pytest.raises(IntegrityError, match=constraint):
        connection.execute(text(statement))


def test_first_sight_at_once_from_many_places_makes_one_user_with_one_grant(engine: Engine) -> None:
    email = f"{uuid4().hex}@Example.com"

    def see(_: int) -> UUID:
        with Session(engine) as session, session.begin():
            return credits.provision_user(session, email, 2)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(see, range(16)))) == 1
    with Session(engine) as session:
        assert session.execute(text("SELECT credits, email FROM users")).all() == [(2, email.lower())]
    money_is_right(engine)


def test_a_reference_grants_once_however_often_and_at_once_it_is_sent(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_id = new_user(session)

    def grant(_: int) -> bool:
        with Session(engine) as session, session.begin():
            return credits.grant(session, user_id, 10, "payment-1")[1]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(grant, range(8))) == [False] * 7 + [True]
    with Session(engine) as session:
        assert balance(session, user_id) == 12
    money_is_right(engine)


def test_a_reference_sent_for_two_users_at_once_grants_to_one(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_ids = [new_user(session) for _ in range(8)]

    def grant(user_id: UUID) -> bool:
        try:
            with Session(engine) as session, session.begin():
                return credits.grant(session, user_id, 10, "payment-1")[1]
        except GrantConflict:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(grant, user_ids)) == [False] * 7 + [True]
    money_is_right(engine)


def test_a_reference_never_means_two_things(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_id, other_id = new_user(session), new_user(session)
        credits.grant(session, user_id, 10, "payment-1")
        with pytest.raises(GrantConflict):
            credits.grant(session, user_id, 11, "payment-1")
        with pytest.raises(GrantConflict):
            credits.grant(session, other_id, 10, "payment-1")
        with pytest.raises(ValueError, match="at least one"):
            credits.grant(session, user_id, 0, "payment-2")
        with pytest.raises(NotFound):
            credits.grant(session, uuid4(), 1, "payment-3")
    money_is_right(engine)
