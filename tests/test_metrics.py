"""`GET /metrics`: figures that are true over all processes because they are the rows', in Prometheus' own form."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from api.routes.metrics import _FIGURES
from shared import attempts, jobs, photos
from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.models import PhotoStatus
from shared.settings import Settings
from tests.rows import accepted_job
from tests.scripted_predictor import PRICE, ScriptedPredictor
from worker.closing import Closing
from worker.generation import Generation
from worker.predictor import Prediction, Unknown

pytestmark = pytest.mark.anyio


async def figures(http: httpx.AsyncClient) -> dict[str, float]:
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name.removeprefix("cuggu_") + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


NOTHING = {
    "photos_in_work PENDING": 0.0,
    "photos_in_work GENERATING": 0.0,
    "photos_oldest_due_seconds": 0.0,
    "attempts_ambiguous": 0.0,
    "attempts_lost_total": 0.0,
    "duplicate_predictions_total": 0.0,
    "duplicate_predictions_cost_usd_total": 0.0,
    "deliveries_waiting": 0.0,
    "deliveries_given_up_total": 0.0,
}


async def test_an_empty_system_has_every_figure_and_all_are_zero(http: httpx.AsyncClient) -> None:
    assert await figures(http) == NOTHING
    assert "/metrics" not in (await http.get("/openapi.json")).json()["paths"]


async def test_what_is_in_work_and_what_waits_is_counted(http: httpx.AsyncClient, engine: Engine) -> None:
    _, _, photo_ids = accepted_job(engine)
    for given_up in (False, True):
        user_id, job_id, _ = accepted_job(engine, delivery_wanted=True)
        with Session(engine) as session, session.begin():
            jobs.cancel(session, user_id, job_id)
            if given_up:
                session.execute(
                    text("UPDATE deliveries SET status = 'GIVEN_UP', next_try_at = NULL, ended_at = now() "
                         "WHERE job_id = :job"), {"job": job_id}
                )  # fmt: skip
    with Session(engine) as session, session.begin():
        session.execute(text("UPDATE photos SET next_check_at = now() - interval '90 s' WHERE status = 'PENDING'"))
        claim = photos.claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert claim is not None
        photos.open_attempt(session, claim, "replicate", "flux")
    found = await figures(http)
    assert 90 <= found.pop("photos_oldest_due_seconds") < 120
    expected = NOTHING | {
        "photos_in_work PENDING": 3.0,
        "photos_in_work GENERATING": 1.0,
        "attempts_ambiguous": 1.0,
        "deliveries_waiting": 1.0,
        "deliveries_given_up_total": 1.0,
    }
    assert found == {name: value for name, value in expected.items() if name in found}
    assert found.keys() == NOTHING.keys() - {"photos_oldest_due_seconds"}


async def test_a_duplicate_found_late_is_canceled_booked_and_counted(
    http: httpx.AsyncClient, engine: Engine, settings: Settings
) -> None:
    predictor = ScriptedPredictor()
    sessions = sessionmaker(engine, expire_on_commit=False)
    storage = DiskStorage(settings.data_dir / "objects")
    generation = Generation(sessions, storage, predictor, ChangeNotes(settings.redis_url), settings)
    _, job_id, photo_ids = accepted_job(engine)
    storage.put(jobs.portrait_key(job_id), b"portrait", "image/jpeg")

    # The create call's answer is lost, and the provider has made two of it.
    predictor.starts.append(Unknown("the line was cut"))
    generation.start(photo_ids[0])
    order = predictor.orders[0]
    original: Prediction = predictor.create(order)
    duplicate: Prediction = predictor.create(order)
    with sessions.begin() as session:
        session.execute(text("UPDATE photos SET next_check_at = now() WHERE id = :id"), {"id": photo_ids[0]})
    generation.collect(photo_ids[0])
    with sessions.begin() as session:
        [unclosed] = attempts.take_unclosed(session, 10, 30)
    Closing(sessions, predictor, settings).close(unclosed)

    assert predictor.canceled == [duplicate.id]
    assert original.id != duplicate.id
    found = await figures(http)
    assert found["duplicate_predictions_total"] == 1
    assert found["duplicate_predictions_cost_usd_total"] == float(PRICE)


async def test_no_figure_reads_the_history(engine: Engine) -> None:
    """A plan that reads a whole table grows with it; planned as if nothing were small."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(connection.execute(text(f"EXPLAIN {_FIGURES.text}")).scalars())
    assert "Seq Scan" not in plan
    used = {"ix_photos_due", "uq_attempts_one_open", "ix_attempts_lost", "ix_attempts_duplicate", "ix_deliveries_due",
            "ix_deliveries_given_up"}  # fmt: skip
    assert {name for name in used if name in plan} == used


async def test_without_a_database_it_says_so(settings: Settings) -> None:
    from contextlib import AsyncExitStack

    from tests.api_client import serve

    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    async with AsyncExitStack() as stack:
        assert (await (await serve(stack, away)).get("/metrics")).status_code == 503
