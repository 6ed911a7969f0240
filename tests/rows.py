"""Rows for tests, made through the same functions that the system makes them with."""

from uuid import UUID, uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from shared import credits, jobs


def new_user(session: Session, *, credit: int = 2) -> UUID:
    return credits.provision_user(session, f"{uuid4().hex}@example.com", credit)


def new_job(
    user_id: UUID,
    *,
    idempotency_key: str | None = None,
    deadline_seconds: int = 480,
    delivery_wanted: bool = False,
) -> jobs.NewJob:
    job_id = uuid4()
    return jobs.NewJob(
        id=job_id,
        user_id=user_id,
        style="CLASSIC",
        role=None,
        portrait_id=job_id,  # known to the test; really a random one of its own
        idempotency_key=idempotency_key,
        request_fingerprint="f" * 64,
        deadline_seconds=deadline_seconds,
        delivery_wanted=delivery_wanted,
    )


def accepted_job(engine: Engine, **options: object) -> tuple[UUID, UUID, tuple[UUID, ...]]:
    """(user, job, its four photos), committed."""
    with Session(engine) as session, session.begin():
        user_id = new_user(session)
        new = new_job(user_id, **options)  # type: ignore[arg-type]
        accepted = jobs.accept(session, new)
        assert accepted is not None
    return user_id, new.id, accepted.photo_ids


def money_is_right(engine: Engine) -> None:
    """The promises about money, said again in plain SQL: I1, and I2 as far as rows can tell."""
    with engine.connect() as connection:
        wrong = connection.execute(
            text(
                "SELECT u.id FROM users u LEFT JOIN ledger_entries l ON l.user_id = u.id "
                "GROUP BY u.id HAVING u.credits <> coalesce(sum(l.amount), 0) OR u.credits < 0"
            )
        ).all()
        assert wrong == [], "a balance differs from the sum of its ledger"
        wrong = connection.execute(
            text(
                "SELECT j.id, j.status FROM jobs j WHERE j.completed_at IS NOT NULL AND "
                "EXISTS (SELECT FROM ledger_entries l WHERE l.job_id = j.id AND l.kind = 'REFUND') = "
                "(j.status = 'COMPLETED' OR (j.status = 'CANCELED' AND EXISTS "
                "(SELECT FROM photos p WHERE p.job_id = j.id AND p.status = 'STORED')))"
            )
        ).all()
        assert wrong == [], "an ended job kept or returned its credit wrongly"
