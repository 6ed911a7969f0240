"""Jobs and photos under races, on a real PostgreSQL: who is first, what is settled, what is fenced off."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import attempts, jobs, leases, photos
from shared.attempts import AttemptEnd, OpenAttempt
from shared.errors import InsufficientCredits, JobEnded, NotFound, PhotoNotStored
from shared.jobs import Settlement
from shared.leases import Claim, LeaseLost
from shared.photos import StoredFile
from shared.states import AttemptOutcome, JobStatus, PhotoStatus
from tests.rows import accepted_job, money_is_right, new_job, new_user
from tests.waiting import wait_until

LEASE_SECONDS = 30
Answer = TypeVar("Answer")


def at_once(count: int, action: Callable[[int], Answer]) -> list[Answer]:
    """Run it `count` times, all beginning at one moment, each in a thread (and so on a connection) of its own."""
    barrier = Barrier(count)

    def run(number: int) -> Answer:
        barrier.wait(timeout=30)
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def start(engine: Engine, photo_id: UUID) -> tuple[Claim, OpenAttempt]:
    with Session(engine) as session, session.begin():
        claim = leases.claim(session, photo_id, PhotoStatus.PENDING, LEASE_SECONDS)
        assert claim is not None
        attempt = photos.open_attempt(session, claim, "preview", "preview")
    with Session(engine) as session, session.begin():
        attempts.record_prediction(session, attempt.id, f"prediction-{attempt.id}")
    return claim, attempt


def store(engine: Engine, claim: Claim, attempt: OpenAttempt) -> Settlement | None:
    with Session(engine) as session, session.begin():
        return store_within(session, claim, attempt)


def store_within(session: Session, claim: Claim, attempt: OpenAttempt) -> Settlement | None:
    end = AttemptEnd(AttemptOutcome.SUCCEEDED, cost_usd=Decimal("0.04"), provider_seconds=3.5)
    file = StoredFile(photos.photo_key(claim, attempt), 900, 1200, 1000, "0" * 64)
    return photos.store(session, claim, attempt, end, file)


def fail(engine: Engine, claim: Claim, attempt: OpenAttempt) -> Settlement | None:
    with Session(engine) as session, session.begin():
        return photos.give_up(session, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, "provider_failed", "no"))


def lapse(engine: Engine, photo_id: UUID) -> None:
    """Let the photo's lease (or its waiting) be over."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE photos SET next_check_at = now() - interval '1 second', sent_at = NULL WHERE id = :id"),
            {"id": photo_id},
        )


def test_twenty_submissions_on_the_last_credit_make_one_job(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_id = new_user(session, credit=1)

    def submit(_: int) -> bool:
        with Session(engine) as session:
            try:
                with session.begin():
                    return jobs.accept(session, new_job(user_id)) is not None
            except InsufficientCredits:
                return False

    assert sum(at_once(20, submit)) == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM photos")).scalar_one() == 4
    money_is_right(engine)


def test_one_idempotency_key_at_once_from_many_places_makes_one_job(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        user_id = new_user(session)

    def submit(_: int) -> bool:
        with Session(engine) as session, session.begin():
            return jobs.accept(session, new_job(user_id, idempotency_key="once")) is not None

    assert sorted(at_once(8, submit)) == [False] * 7 + [True]
    money_is_right(engine)


def test_two_workers_on_one_photo_make_one_attempt(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)

    def claim(_: int) -> bool:
        with Session(engine) as session, session.begin():
            return leases.claim(session, photo_ids[0], PhotoStatus.PENDING, LEASE_SECONDS) is not None

    assert sorted(at_once(8, claim)) == [False] * 7 + [True]


def test_the_database_forbids_a_second_open_attempt(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    start(engine, photo_ids[0])
    with engine.begin() as connection, pytest.raises(IntegrityError, match="uq_attempts_one_open"):
        connection.execute(
            text(
                "INSERT INTO attempts (id, photo_id, number, provider, model, seed) "
                "VALUES (:id, :photo, 2, 'preview', 'preview', 1)"
            ),
            {"id": uuid4(), "photo": photo_ids[0]},
        )


def test_four_stored_photos_complete_the_job_and_keep_the_credit(engine: Engine) -> None:
    user_id, job_id, photo_ids = accepted_job(engine)
    held = [start(engine, photo_id) for photo_id in photo_ids]
    settlements = at_once(4, lambda number: store(engine, *held[number]))
    (settlement,) = [settlement for settlement in settlements if settlement]
    assert (settlement.status, settlement.stored, settlement.refunded_to) == (JobStatus.COMPLETED, 4, None)
    with Session(engine) as session, pytest.raises(JobEnded):
        jobs.cancel(session, user_id, job_id)
    money_is_right(engine)


def test_last_photos_that_end_at_once_settle_the_job_once(engine: Engine) -> None:
    """Whoever comes last settles, and there is always exactly one last."""
    _, _, photo_ids = accepted_job(engine)
    held = [start(engine, photo_id) for photo_id in photo_ids]
    settlements = at_once(4, lambda number: (store if number == 0 else fail)(engine, *held[number]))
    (settlement,) = [settlement for settlement in settlements if settlement]
    assert (settlement.status, settlement.stored, settlement.refunded_to) == (JobStatus.PARTIAL, 1, 2)
    assert settlement.error_code == "provider_failed"
    money_is_right(engine)


def test_the_last_photo_waits_for_the_one_before_it(engine: Engine) -> None:
    """Neither would see the other's end, and nobody would settle."""
    _, _, photo_ids = accepted_job(engine)
    held = [start(engine, photo_id) for photo_id in photo_ids]
    for claim, attempt in held[:2]:
        store(engine, claim, attempt)

    def somebody_waits() -> bool:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with engine.connect() as connection:
            return bool(connection.execute(text(waiting)).scalar_one())

    with ThreadPoolExecutor(1) as pool, Session(engine) as not_yet_committed:
        assert store_within(not_yet_committed, *held[2]) is None
        last = pool.submit(store, engine, *held[3])
        wait_until(lambda: last.done() or somebody_waits())
        not_yet_committed.commit()
        settlement = last.result(timeout=30)
    assert settlement is not None
    assert settlement.status is JobStatus.COMPLETED


def test_a_job_without_any_photo_fails_and_gives_the_credit_back_once(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    held = [start(engine, photo_id) for photo_id in photo_ids]
    settlements = at_once(4, lambda number: fail(engine, *held[number]))
    (settlement,) = [settlement for settlement in settlements if settlement]
    assert (settlement.status, settlement.refunded_to) == (JobStatus.FAILED, 2)
    money_is_right(engine)


def test_cancel_deadline_and_a_last_photo_at_once_settle_the_job_once(engine: Engine) -> None:
    user_id, job_id, photo_ids = accepted_job(engine, deadline_seconds=0)
    held = [start(engine, photo_id) for photo_id in photo_ids]
    for claim, attempt in held[:3]:
        store(engine, claim, attempt)

    def settle(number: int) -> Settlement | None:
        with Session(engine) as session:
            try:
                if number == 0:
                    return store(engine, *held[3])
                with session.begin():
                    if number == 1:
                        return jobs.cancel(session, user_id, job_id)
                    return jobs.settle_overdue(session, job_id)
            except (JobEnded, LeaseLost):
                return None

    assert len([settlement for settlement in at_once(3, settle) if settlement]) == 1
    money_is_right(engine)


def test_a_worker_that_comes_back_after_its_lease_changes_nothing(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    late_claim, attempt = start(engine, photo_ids[0])
    lapse(engine, photo_ids[0])
    with Session(engine) as session, session.begin():
        claim = leases.claim(session, photo_ids[0], PhotoStatus.GENERATING, LEASE_SECONDS)
    assert claim is not None
    for act in (store, fail):
        with pytest.raises(LeaseLost):
            act(engine, late_claim, attempt)
    with Session(engine) as session, pytest.raises(LeaseLost):
        leases.release(session, late_claim, 1)
    with Session(engine) as session, pytest.raises(LeaseLost):
        leases.renew(session, late_claim, 1)
    assert store(engine, claim, attempt) is None  # the job's first photo


def test_a_step_that_comes_out_of_order_changes_nothing(engine: Engine) -> None:
    """The claim alone is no right to a step: each goes from one status only."""
    _, _, photo_ids = accepted_job(engine)
    claim, attempt = start(engine, photo_ids[0])
    with Session(engine) as session, pytest.raises(LeaseLost):
        photos.open_attempt(session, claim, "preview", "preview")
    with Session(engine) as session, session.begin():
        photos.retry(session, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, "provider_failed"), 0)
        held = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, LEASE_SECONDS)
    assert held is not None
    for act in (store, fail):
        with pytest.raises(LeaseLost):
            act(engine, held, attempt)


def test_a_held_photo_is_claimed_by_nobody_else_not_even_with_a_hint(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    claim, _ = start(engine, photo_ids[0])
    with Session(engine) as session, session.begin():
        assert leases.claim(session, photo_ids[0], PhotoStatus.GENERATING, LEASE_SECONDS, hinted=True) is None
        leases.release(session, claim, 60)
    with Session(engine) as session, session.begin():
        assert leases.claim(session, photo_ids[0], PhotoStatus.GENERATING, LEASE_SECONDS) is None, "not due yet"
        assert leases.claim(session, photo_ids[0], PhotoStatus.GENERATING, LEASE_SECONDS, hinted=True) is not None


def test_a_passed_deadline_settles_from_what_there_is_and_fences_off_the_rest(engine: Engine) -> None:
    _, job_id, photo_ids = accepted_job(engine, deadline_seconds=0)
    store(engine, *start(engine, photo_ids[0]))
    claim, attempt = start(engine, photo_ids[1])
    with Session(engine) as session, session.begin():
        assert list(jobs.overdue(session, 10)) == [job_id]
        settlement = jobs.settle_overdue(session, job_id)
    assert settlement is not None
    assert (settlement.status, settlement.stored, settlement.error_code) == (JobStatus.PARTIAL, 1, "deadline_exceeded")
    with pytest.raises(LeaseLost):
        store(engine, claim, attempt)
    with Session(engine) as session, session.begin():
        assert jobs.settle_overdue(session, job_id) is None
        assert list(attempts.take_unclosed(session, 10, 30)) == [attempt.id], "its prediction must still be stopped"
    money_is_right(engine)


def test_a_job_that_no_worker_ever_saw_fails_by_its_deadline(engine: Engine) -> None:
    _, job_id, _ = accepted_job(engine, deadline_seconds=0)
    with Session(engine) as session, session.begin():
        settlement = jobs.settle_overdue(session, job_id)
    assert settlement is not None
    assert (settlement.status, settlement.refunded_to) == (JobStatus.FAILED, 2)
    money_is_right(engine)


@pytest.mark.parametrize(("stored", "refunded_to"), [(0, 2), (1, None)])
def test_cancel_gives_the_credit_back_unless_a_photo_was_stored(
    engine: Engine, stored: int, refunded_to: int | None
) -> None:
    user_id, job_id, photo_ids = accepted_job(engine)
    for photo_id in photo_ids[:stored]:
        store(engine, *start(engine, photo_id))
    with Session(engine) as session, session.begin():
        settlement = jobs.cancel(session, user_id, job_id)
    assert (settlement.status, settlement.refunded_to) == (JobStatus.CANCELED, refunded_to)
    money_is_right(engine)


def test_only_the_owner_cancels_and_chooses_and_only_stored_photos_are_chosen(engine: Engine) -> None:
    user_id, job_id, photo_ids = accepted_job(engine)
    store(engine, *start(engine, photo_ids[0]))
    with Session(engine) as session, session.begin():
        stranger_id = new_user(session)
    with Session(engine) as session:
        for act in (
            lambda: jobs.cancel(session, stranger_id, job_id),
            lambda: jobs.select_photo(session, stranger_id, job_id, photo_ids[0]),
            lambda: jobs.select_photo(session, user_id, job_id, uuid4()),
            lambda: jobs.select_photo(session, user_id, uuid4(), photo_ids[0]),
        ):
            with pytest.raises(NotFound):
                act()
        with pytest.raises(PhotoNotStored):
            jobs.select_photo(session, user_id, job_id, photo_ids[1])
        session.rollback()
    with Session(engine) as session, session.begin():
        jobs.select_photo(session, user_id, job_id, photo_ids[0])


def test_what_is_due_goes_to_one_sweep_and_comes_again_only_when_nobody_acts(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    for photo_id in photo_ids:
        lapse(engine, photo_id)

    def take(_: int) -> list[UUID]:
        with Session(engine) as session, session.begin():
            return list(photos.take_due(session, PhotoStatus.PENDING, 3, resend_seconds=30))

    taken = at_once(4, take)
    assert sorted(photo_id for batch in taken for photo_id in batch) == sorted(photo_ids), "each once"
    assert all(len(batch) <= 3 for batch in taken)
    assert take(0) == [], "sent a moment ago"
    with Session(engine) as session, session.begin():
        assert len(photos.take_due(session, PhotoStatus.PENDING, 10, resend_seconds=0)) == 4


def test_a_late_answer_to_a_lost_attempt_is_closed_and_not_forgotten(engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    with Session(engine) as session, session.begin():
        claim = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, LEASE_SECONDS)
        assert claim is not None
        attempt = photos.open_attempt(session, claim, "replicate", "flux")
        photos.retry(session, claim, attempt, AttemptEnd(AttemptOutcome.LOST, "answer_lost"), 0)
    with Session(engine) as session, session.begin():
        assert attempts.record_prediction(session, attempt.id, "late")
        assert not attempts.record_prediction(session, attempt.id, "later"), "an attempt has one prediction"
        assert list(attempts.take_unclosed(session, 10, 30)) == [attempt.id]
        end = AttemptEnd(AttemptOutcome.CANCELED, cost_usd=Decimal("0.04"))
        assert not attempts.end(session, attempt.id, end), "it is not open any more"
        assert attempts.end(session, attempt.id, end, unwanted=True)
        assert not attempts.end(session, attempt.id, end, unwanted=True)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT outcome, prediction_id, cost FROM attempts")).one()
    assert tuple(row) == ("CANCELED", "late", Decimal("0.0400"))
