"""The time that is left: measured over the latest jobs of the same kind, and not said when it is not known."""

import pytest
from sqlalchemy import Engine, text

from api.eta import LATEST_JOBS, Eta, eta
from shared.settings import Settings
from tests.api_client import Client, application, finish

_JOBS = text("""
    WITH made AS (
        INSERT INTO jobs (id, user_id, style, status, portrait_id, request_fingerprint, deadline_at, created_at,
                          completed_at)
        SELECT gen_random_uuid(), u.id, :style, 'COMPLETED', gen_random_uuid(), '', now(),
               now() - interval '1 hour', now() - interval '1 hour' + n * :step * interval '1 second'
        FROM users u, generate_series(1, :count) n RETURNING id
    ), photo AS (
        INSERT INTO photos (id, job_id, slot, status) SELECT gen_random_uuid(), id, 0, 'FAILED' FROM made RETURNING id
    )
    INSERT INTO attempts (id, photo_id, number, provider, model, seed, outcome, ended_at)
    SELECT gen_random_uuid(), id, 1, 'x', :model, 1, 'SUCCEEDED', now() FROM photo
""")


def took(engine: Engine, *, style: str = "CLASSIC", model: str = "preview", count: int = 10, step: float = 10) -> None:
    """Jobs that took one step, two steps and so on, in seconds."""
    with engine.begin() as connection:
        connection.execute(_JOBS, {"style": style, "model": model, "count": count, "step": step})


def forget(client: Client) -> None:
    application(client.http).state.parts.durations._known.clear()


def test_what_is_left_is_that_of_the_jobs_which_took_longer() -> None:
    durations = [float(seconds) for seconds in range(1, 101)]
    assert eta(durations, 0) == Eta(50.5, 90.1)
    assert eta(durations, 50) == Eta(25.5, 45.1)
    assert eta(durations, 95.5) == Eta(2.5, 4.1)
    assert eta(durations, 96.5) is None, "four are too few to say"
    assert eta([], 0) is None


@pytest.mark.anyio
async def test_a_job_in_work_says_what_is_left_and_an_ended_one_nothing(
    client: Client, engine: Engine, settings: Settings
) -> None:
    await client.get("/me")
    job = (await client.submit()).json()
    assert (job["eta_seconds"], job["eta_p90_seconds"]) == (None, None)
    took(engine, count=4)
    took(engine, count=50, style="MODERN", step=1000)
    took(engine, count=50, model="another", step=1000)
    forget(client)
    assert (await client.get(f"/jobs/{job['id']}")).json()["eta_seconds"] is None, "four are too few to say"
    took(engine, count=6)
    forget(client)
    first = await client.get(f"/jobs/{job['id']}")
    later = await client.get(f"/jobs/{job['id']}")
    assert 10 < later.json()["eta_seconds"] <= first.json()["eta_seconds"] <= 35
    assert first.json()["eta_seconds"] < first.json()["eta_p90_seconds"] <= 60
    assert first.headers["etag"] == later.headers["etag"], "time that passes is no change"
    assert (await client.get("/jobs")).json()["jobs"][0]["eta_seconds"] > 10
    finish(engine, settings, job)
    ended = (await client.get(f"/jobs/{job['id']}")).json()
    assert (ended["status"], ended["eta_seconds"], ended["eta_p90_seconds"]) == ("COMPLETED", None, None)


@pytest.mark.anyio
async def test_the_history_is_never_read_as_a_whole(client: Client, engine: Engine) -> None:
    await client.get("/me")
    took(engine, count=3000, step=0.01)
    job = (await client.submit()).json()
    durations = application(client.http).state.parts.durations
    (_, known) = durations._known["CLASSIC"]
    assert len(known) == LATEST_JOBS
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
        plan = connection.execute(
            text(
                "EXPLAIN SELECT id FROM jobs WHERE style = 'CLASSIC' AND status = 'COMPLETED' "
                "ORDER BY completed_at DESC LIMIT 100"
            )
        ).scalars()
        assert "ix_jobs_completed" in "".join(plan)
    took(engine, count=200, step=3000)
    assert (await client.get(f"/jobs/{job['id']}")).json()["eta_seconds"] <= job["eta_seconds"], "known for a while"
