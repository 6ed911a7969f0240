"""The planted defects: each takes away one thing that a promise rests on, and names the check that must notice.

A defect is one replacement in one file. `tests/test_mutants.py` holds that each old text stands there exactly once.
"""

from dataclasses import dataclass

# For defects that break a promise soon: one that holds a job up for ever makes every schedule hours long.
SIMULATION = "cuggu simulate"

_MIGRATION = "migrations/versions/0001_the_first_tables.py"
_CRASH = "tests/test_crashes.py::test_a_process_killed_at_any_boundary_costs_nothing"


@dataclass(frozen=True)
class Mutant:
    """`caught_by` is a test, or the simulation."""

    name: str
    breaks: str  # the promise
    file: str
    old: str
    new: str
    caught_by: str


MUTANTS = (
    # --- What the database forbids
    Mutant(
        "two attempts at one photo may be open",
        "I4",
        _MIGRATION,
        '"uq_attempts_one_open", "attempts", ["photo_id"], unique=True',
        '"uq_attempts_one_open", "attempts", ["photo_id"], unique=False',
        "tests/test_jobs.py::test_the_database_forbids_a_second_open_attempt",
    ),
    Mutant(
        "a job may be charged and refunded twice",
        "I2",
        _MIGRATION,
        '        sa.UniqueConstraint("job_id", "kind", name=op.f("uq_ledger_entries_job_id_kind")),\n',
        "",
        "tests/test_credits.py::test_the_database_forbids_moving_a_jobs_credit_twice",
    ),
    Mutant(
        "a user may have two sign-up grants",
        "I1",
        _MIGRATION,
        '        ["user_id"],\n        unique=True,',
        '        ["user_id"],\n        unique=False,',
        "tests/test_credits.py::test_the_database_forbids_what_wrong_code_might_do",
    ),
    Mutant(
        "a balance may be negative",
        "I1",
        _MIGRATION,
        '        sa.CheckConstraint("credits >= 0", name=op.f("ck_users_credits_not_negative")),\n',
        "",
        "tests/test_credits.py::test_the_database_forbids_what_wrong_code_might_do",
    ),
    Mutant(
        "two jobs may have one Idempotency-Key",
        "I8",
        _MIGRATION,
        '        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_jobs_user_id_idempotency_key")),\n',
        "",
        "tests/test_jobs.py::test_one_idempotency_key_at_once_from_many_places_makes_one_job",
    ),
    Mutant(
        "two attempts may pay for one prediction",
        "I4",
        _MIGRATION,
        '        sa.UniqueConstraint("provider", "prediction_id", name=op.f("uq_attempts_provider_prediction_id")),\n',
        "",
        "tests/test_generation.py::test_of_two_predictions_of_one_attempt_the_younger_is_stopped_and_booked",
    ),
    # --- Money and settlement
    Mutant(
        "a charge does not look at the balance",
        "I1",
        "shared/credits.py",
        ".where(User.id == user_id, User.credits + amount >= 0, may)",
        ".where(User.id == user_id, may)",
        "tests/test_jobs.py::test_twenty_submissions_on_the_last_credit_make_one_job",
    ),
    Mutant(
        "a job is accepted without its charge",
        "I2",
        "shared/jobs.py",
        "credits_left = credits.charge(session, new.user_id, new.id)",
        "credits_left = 0",
        SIMULATION,
    ),
    Mutant(
        "a job does not remember its Idempotency-Key",
        "I8",
        "shared/jobs.py",
        "idempotency_key=new.idempotency_key,",
        "idempotency_key=None,",
        f"{_CRASH}[submit: after commit of jobs.accept]",
    ),
    Mutant(
        "three photos complete a job",
        "I2",
        "shared/jobs.py",
        "if stored == PHOTOS_PER_JOB:",
        "if stored >= PHOTOS_PER_JOB - 1:",
        SIMULATION,
    ),
    Mutant(
        "a PARTIAL job keeps the credit",
        "I2",
        "shared/jobs.py",
        "stored=stored, keep_credit=False,",
        "stored=stored, keep_credit=stored > 0,",
        SIMULATION,
    ),
    Mutant(
        "a canceled job keeps the credit, photo or not",
        "I2",
        "shared/jobs.py",
        "keep_credit=stored > 0,",
        "keep_credit=True,",
        SIMULATION,
    ),
    Mutant(
        "the last photos do not wait for each other at the job's row",
        "I3",
        "shared/jobs.py",
        'bindparam("of_job")).with_for_update().execution_options',
        'bindparam("of_job")).execution_options',
        "tests/test_jobs.py::test_the_last_photo_waits_for_the_one_before_it",
    ),
    # --- Claims, leases, steps
    Mutant(
        "a claim's token fences nobody off",
        "I3",
        "shared/leases.py",
        'Photo.lease_token == bindparam("held_by")',
        'bindparam("held_by").is_not(None)',
        "tests/test_jobs.py::test_a_worker_that_comes_back_after_its_lease_changes_nothing",
    ),
    Mutant(
        "a step does not look at the photo's status",
        "I7",
        "shared/leases.py",
        "_HELD.where(Photo.status == expected)",
        "_HELD",
        "tests/test_jobs.py::test_a_step_that_comes_out_of_order_changes_nothing",
    ),
    Mutant(
        "a leased photo may be claimed",
        "I4",
        "shared/leases.py",
        "_DUE = Photo.next_check_at <= db_now()",
        "_DUE = Photo.id == Photo.id",
        "tests/test_jobs.py::test_a_held_photo_is_claimed_by_nobody_else_not_even_with_a_hint",
    ),
    Mutant(
        "a webhook's hint breaks a lease",
        "I10",
        "shared/leases.py",
        "or_(_DUE, Photo.lease_token.is_(None))",
        "or_(_DUE, Photo.id == Photo.id)",
        "tests/test_jobs.py::test_a_held_photo_is_claimed_by_nobody_else_not_even_with_a_hint",
    ),
    # --- The sweep
    Mutant(
        "the sweep sends no waiting photo",
        "I5",
        "worker/sweeper.py",
        "_send_due(sessions, queue, settings, PhotoStatus.PENDING, START_QUEUE, queue.start_photos)",
        "pass",
        f"{_CRASH}[sweep photos that nobody starts: before queue.start_photos]",
    ),
    Mutant(
        "the sweep does not find whose lease has ended",
        "I5",
        "shared/photos.py",
        "Photo.next_check_at <= db_now(),",
        "Photo.next_check_at <= db_now(), Photo.lease_token.is_(None),",
        "tests/test_sweeper.py::test_a_running_prediction_is_looked_at_when_its_time_has_come",
    ),
    Mutant(
        "the sweep knows no deadline",
        "I5",
        "worker/sweeper.py",
        "for job_id in overdue:",
        "for job_id in ():",
        f"{_CRASH}[sweep a job past its deadline: after commit of jobs.settle_overdue that settles]",
    ),
    Mutant(
        "an attempt that nobody waits for is not closed",
        "I4",
        "shared/jobs.py",
        ".values(close_due_at=db_now())",
        ".values(close_due_at=None)",
        SIMULATION,
    ),
    Mutant(
        "what is loose is forgotten and not deleted",
        "I6",
        "worker/sweeper.py",
        "storage.delete(keys)",
        "pass",
        SIMULATION,
    ),
    # --- The create call
    Mutant(
        "the attempt is written down after the call",
        "I4",
        "worker/generation.py",
        "photos.open_attempt(session, claim, self.predictor.name, self.predictor.model)\n",
        "photos.open_attempt(session, claim, self.predictor.name, self.predictor.model)\n"
        "            order = self._order(claim, attempt)\n"
        '            object.__setattr__(order, "before_paying", lambda: None)\n'
        "            self.predictor.start(order)\n",
        f"{_CRASH}[start: after predictor.start]",
    ),
    Mutant(
        "the seed that is sent is not the one in the books",
        "I4",
        "worker/generation.py",
        "seed=attempt.seed,",
        "seed=attempt.seed ^ 1,",
        f"{_CRASH}[start: after predictor.start]",
    ),
    Mutant(
        "a lost answer is taken for lost at once",
        "I4",
        "worker/generation.py",
        "self.predictor.find(attempt.id, attempt.seed, attempt.created_at)",
        "[]",
        SIMULATION,
    ),
    Mutant(
        "whatever prediction a webhook names is taken for ours",
        "I10",
        "worker/replicate_predictor.py",
        "return prediction_from(entry, self._model) if self._fits(entry, attempt_id, seed, until) else None",
        "return prediction_from(entry, self._model)",
        "tests/test_predictors.py::test_a_named_prediction_is_recognised_by_its_own_attempt_alone",
    ),
    Mutant(
        "what a second prediction costs is not booked",
        "I4",
        "worker/attempt_books.py",
        "for duplicate in younger:",
        "for duplicate in ():",
        "tests/test_generation.py::test_of_two_predictions_of_one_attempt_the_younger_is_stopped_and_booked",
    ),
    Mutant(
        "a prediction is written down only under the lease",
        "I4",
        "worker/generation.py",
        "attempts.record_prediction(session, attempt.id, prediction.id)",
        "leases.renew(session, claim, 1) or attempts.record_prediction(session, attempt.id, prediction.id)",
        "tests/test_generation.py::test_a_worker_that_has_lost_its_photo_writes_down_what_it_paid_for",
    ),
    Mutant(
        "a create is repeated by the wire",
        "I4",
        "worker/replicate_http.py",
        "        answer = self._wire.handle_request(request)\n",
        "        try:\n            answer = self._wire.handle_request(request)\n"
        "        except httpx.TransportError:\n            answer = self._wire.handle_request(request)\n",
        "tests/test_replicate_predictor.py::test_a_create_without_a_clear_answer_is_unknown_and_sent_once",
    ),
    Mutant(
        "creates are not counted against the provider's limit",
        "I11",
        "worker/budgeted_predictor.py",
        "wait_seconds = self._budget.take(kind, request_id, user_id)",
        "wait_seconds = 0.0",
        "tests/test_provider_budget.py::test_an_account_with_little_credit_is_known_by_the_first_answer",
    ),
    # --- Objects
    Mutant(
        "a photo is stored without being decoded",
        "I2",
        "worker/generation.py",
        "return prepare_photo(body, made_by_ai=by_ai, marked=marked, signer=self.signer)",
        'return PhotoFile(body, "image/jpeg", 900, 1200, "0" * 64, b"")',
        SIMULATION,
    ),
    Mutant(
        "a photo is put before it is announced",
        "I6",
        "worker/generation.py",
        "loose_objects.expect(session, key, small)",
        "pass",
        SIMULATION,
    ),
    Mutant(
        "a portrait is put before it is announced",
        "I6",
        "api/submission.py",
        "await session.run_sync(loose_objects.expect, key)",
        "pass",
        f"{_CRASH}[submit: after storage.put]",
    ),
    Mutant(
        "a stored photo stays on the list of what is loose",
        "I6",
        "shared/photos.py",
        "loose_objects.keep(session, *filter(None, (file.object_key, file.thumbnail_key)))",
        "pass",
        SIMULATION,
    ),
    Mutant(
        "the queue is told before the commit",
        "I5",
        "api/submission.py",
        "accepted = await session.run_sync(jobs.accept, new)",
        "accepted = await session.run_sync(jobs.accept, new)\n"
        "                self._queue.start_photos(accepted.photo_ids if accepted else ())",
        f"{_CRASH}[submit: before commit of jobs.accept]",
    ),
    # --- Webhooks
    Mutant(
        "a webhook's signature is not looked at",
        "I10",
        "api/webhook_verifier.py",
        "key.verify(",
        "self._guard or key.verify(",
        "tests/test_webhooks.py::test_a_forged_webhook_changes_nothing",
    ),
    Mutant(
        "only the first of several signatures is tried",
        "I10",
        "api/webhook_verifier.py",
        "key.verify(body, ",
        '(lambda given, **how: key.verify(body, {**given, "webhook-signature": '
        'given.get("webhook-signature", "").split(" ")[0]}, **how))(',
        "tests/test_webhooks.py::test_any_of_several_signatures_will_do",
    ),
    Mutant(
        "only the newest secret is tried",
        "I10",
        "api/webhook_verifier.py",
        "for key in self._keys:",
        "for key in self._keys[:1]:",
        "tests/test_webhooks.py::test_a_signed_webhook_is_one_hint_to_collect",
    ),
    Mutant(
        "a webhook may be of any age",
        "I10",
        "api/webhook_verifier.py",
        "key.verify(",
        "key._Webhook__verify_timestamp = lambda at: "
        '__import__("datetime").datetime.fromtimestamp(float(at), __import__("datetime").UTC)\n'
        "                key.verify(",
        "tests/test_webhooks.py::test_a_stale_or_changed_webhook_changes_nothing",
    ),
    Mutant(
        "signatures are compared in a time that tells how much of them was right",
        "I10",
        "api/webhook_verifier.py",
        "key.verify(",
        'at = __import__("datetime").datetime.fromtimestamp(int(headers["webhook-timestamp"]), '
        '__import__("datetime").UTC)\n'
        '                ours = key.sign(headers["webhook-id"], at, body.decode())\n'
        '                if ours in headers["webhook-signature"].split(" "):\n'
        '                    return headers["webhook-id"]\n'
        "                key.verify(",
        "tests/test_webhooks.py::test_signatures_are_compared_in_constant_time",
    ),
    Mutant(
        "a replay is taken for news",
        "I10",
        "api/webhook_verifier.py",
        "nx=True",
        "nx=False",
        "tests/test_webhooks.py::test_a_signed_webhook_is_one_hint_to_collect",
    ),
    Mutant(
        "a webhook's body is believed",
        "I10",
        "api/routes/webhooks.py",
        "    new = await parts.webhooks.is_new(webhook_id)\n",
        "    async with parts.sessions.begin() as session:\n"
        '        await session.execute(__import__("sqlalchemy").text("UPDATE photos SET next_check_at = now(), '
        "status = 'PENDING' WHERE id = :photo AND status = 'GENERATING'\"), {\"photo\": photo})\n"
        "    new = await parts.webhooks.is_new(webhook_id)\n",
        "tests/test_webhooks.py::test_a_webhook_is_a_hint_and_changes_no_row",
    ),
    # --- Whose it is
    Mutant(
        "anybody may look at a job",
        "I9",
        "api/job_view.py",
        "WHERE j.id = :job_id AND j.user_id = :user_id",
        "WHERE j.id = :job_id AND :user_id IS NOT NULL",
        "tests/test_following.py::test_a_strangers_job_looks_like_none",
    ),
    Mutant(
        "anybody may cancel a job",
        "I9",
        "shared/jobs.py",
        "    job = lock_own(session, user_id, job_id)\n    if job.status not in ACTIVE_JOB:",
        "    job = lock(session, job_id)\n    assert job\n    if job.status not in ACTIVE_JOB:",
        "tests/test_jobs.py::test_only_the_owner_cancels_and_chooses_and_only_stored_photos_are_chosen",
    ),
)
