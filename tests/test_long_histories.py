"""Long histories: those that speed is measured on are sound, and a page of one reads no more than the page."""

import json

import pytest
from sqlalchemy import Connection, Engine, text

from api.event_view import _NEW, _TOLD
from api.job_view import _PAGE, OWNED_JOBS
from bench.rows import HEAVY_USER, write_history
from shared.audit import prove_rows, snapshot
from shared.settings import Settings

HISTORY_JOBS, HEAVY_JOBS = 4000, 3000
PAGE = 20


def test_a_page_reads_what_is_on_it_and_no_more(engine: Engine, settings: Settings) -> None:
    write_history(settings.database_url, HISTORY_JOBS, HEAVY_JOBS)
    with engine.connect() as connection:
        user_id = connection.scalars(text("SELECT id FROM users WHERE email = :email"), {"email": HEAVY_USER}).one()
        # Planned for this user, as PostgreSQL plans the first executions: for any user there are ten jobs.
        connection.execute(text("SET plan_cache_mode = force_custom_plan"))
        first_page = {"user_id": user_id, "before": None, "before_id": None, "limit": PAGE + 1}
        plan = "\n".join(connection.execute(text(f"EXPLAIN ANALYZE {_PAGE.text}"), first_page).scalars())
    assert "ix_jobs_user_id_created_at_id" in plan
    assert "uq_ledger_entries_job_id_kind" in plan
    assert "Seq Scan" not in plan, plan
    assert "hashed SubPlan" not in plan, plan


@pytest.mark.parametrize("planned", ["force_custom_plan", "force_generic_plan"])
def test_polls_and_looks_find_their_jobs_by_index(engine: Engine, settings: Settings, planned: str) -> None:
    write_history(settings.database_url, HISTORY_JOBS, HEAVY_JOBS)
    with engine.connect() as connection:
        connection.execute(text(f"SET plan_cache_mode = {planned}"))
        job_ids = connection.scalars(text("SELECT CAST(id AS text) FROM jobs LIMIT 32")).all()
        polls = explained(connection, OWNED_JOBS.text, job_ids=" ".join(job_ids))
        look = explained(connection, _NEW.text, after=json.dumps(dict.fromkeys(job_ids, 0)), told=_TOLD)
    assert "pk_jobs" in polls
    assert "Seq Scan on jobs" not in polls, polls
    assert "ix_job_events_job_id_id" in look
    assert "Seq Scan" not in look, look


def explained(connection: Connection, statement: str, **parameters: object) -> str:
    return "\n".join(connection.execute(text(f"EXPLAIN {statement}"), parameters).scalars())


def test_a_history_that_speed_is_measured_on_keeps_every_promise(engine: Engine, settings: Settings) -> None:
    write_history(settings.database_url, 60, 30)
    with snapshot(engine) as connection:
        findings = prove_rows(connection)
    assert [offence for finding in findings for offence in finding.offences] == []
    assert {finding.table: finding.looked_at for finding in findings} == {
        "users": 4, "ledger_entries": 60 + 4, "jobs": 60, "photos": 240, "deletions": 0,
    }  # fmt: skip
    with engine.connect() as connection:
        again = (
            "SELECT count(*) FROM attempts WHERE number = 2",
            "SELECT count(*) FROM job_events WHERE name = 'photo.retried'",
        )
        tried_again, told = (connection.scalars(text(statement)).one() for statement in again)
        assert tried_again == told, "a tenth of the jobs or so: their ids are random"
        assert not connection.scalars(text("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid")).all()
