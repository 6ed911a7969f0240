"""`GET /metrics`: what the rows tell of all processes, and what each process counts, in Prometheus' own form."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from api.observed_requests import NO_ROUTE
from shared import attempts, figures, jobs, leases, photos
from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.errors import StorageUnavailable
from shared.observed_storage import ObservedStorage
from shared.queue import START_QUEUE
from shared.queue_figures import SweepNotes
from shared.settings import Settings
from shared.states import PhotoStatus
from shared.storage import ObjectNotFound
from tests import photos as pictures
from tests.api_client import Client
from tests.predictor_orders import an_order
from tests.rows import accepted_job
from tests.scripted_predictor import PRICE, ScriptedPredictor
from tests.stack import RunningStack
from tests.waiting import wait_until
from worker.budgeted_predictor import BudgetedPredictor
from worker.closing import Closing
from worker.generation import Generation
from worker.observed_predictor import ObservedPredictor
from worker.predictor import Never, NotYet, Prediction, Unknown

pytestmark = pytest.mark.anyio
PROJECT = Path(__file__).parents[1]


def parsed(page: str) -> dict[str, float]:
    return {
        sample.name.removeprefix("cuggu_")
        + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("cuggu_")
    }


async def everything(http: httpx.AsyncClient, **headers: str) -> dict[str, float]:
    answer = await http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(answer.text)


class Counted:
    """By how much each counter has risen since this was made: they belong to the process, and so to all its tests."""

    def __init__(self, before: dict[str, float]) -> None:
        self._before = before

    @classmethod
    async def since_now(cls, http: httpx.AsyncClient) -> "Counted":
        return cls(await everything(http))

    async def by(self, http: httpx.AsyncClient, *beginnings: str) -> dict[str, float]:
        now = await everything(http)
        risen = {name: value - self._before.get(name, 0.0) for name, value in now.items()}
        return {name: value for name, value in risen.items() if value and name.startswith(beginnings)}


NOTHING = {
    "photos_in_work PENDING": 0.0,
    "photos_in_work GENERATING": 0.0,
    "photos_overdue PENDING": 0.0,
    "photos_overdue GENERATING": 0.0,
    "queue_age_seconds": 0.0,
    "photos_oldest_due_seconds": 0.0,
    "jobs_overdue": 0.0,
    "attempts_ambiguous": 0.0,
    "attempts_unclosed": 0.0,
    "attempts_lost": 0.0,
    "duplicate_predictions": 0.0,
    "duplicate_predictions_cost_usd": 0.0,
    "deliveries_waiting": 0.0,
    "deliveries_given_up": 0.0,
    "loose_objects_overdue_seconds": 0.0,
    "ledger_checked_users": 0.0,
    "ledger_wrong_users": 0.0,
    "queue_messages start": 0.0,
    "queue_messages collect": 0.0,
    "queue_messages maintenance": 0.0,
    "redis_answers": 1.0,
    "sweep_sent_age_seconds": float("inf"),
    "sweep_age_seconds": float("inf"),
}


async def of_rows(http: httpx.AsyncClient) -> dict[str, float]:
    """What `/metrics` tells of the rows and of Redis."""
    return {name: value for name, value in (await everything(http)).items() if name in NOTHING}


async def test_an_empty_system_has_every_figure_and_all_are_zero(http: httpx.AsyncClient) -> None:
    assert await of_rows(http) == NOTHING
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
        session.execute(text("UPDATE jobs SET created_at = now() - interval '200 s', deadline_at = now()"))
        session.execute(text("UPDATE photos SET next_check_at = now() - interval '90 s' WHERE status = 'PENDING'"))
        session.execute(text("INSERT INTO loose_objects VALUES ('a/b', now() - interval '50 s')"))
        claim = leases.claim(session, photo_ids[0], PhotoStatus.PENDING, 60)
        assert claim is not None
        photos.open_attempt(session, claim, "replicate", "flux")
    found = await of_rows(http)
    assert 90 <= found.pop("photos_oldest_due_seconds") < 120
    assert 200 <= found.pop("queue_age_seconds") < 230
    assert 50 <= found.pop("loose_objects_overdue_seconds") < 80
    expected = NOTHING | {
        "photos_in_work PENDING": 3.0,
        "photos_in_work GENERATING": 1.0,
        "photos_overdue PENDING": 3.0,
        "jobs_overdue": 1.0,
        "attempts_ambiguous": 1.0,
        "deliveries_waiting": 1.0,
        "deliveries_given_up": 1.0,
        "ledger_checked_users": 3.0,
    }
    assert found == {name: value for name, value in expected.items() if name in found}
    assert len(found) == len(NOTHING) - 3


async def test_a_balance_that_its_ledger_does_not_make_up_is_found(http: httpx.AsyncClient, engine: Engine) -> None:
    user_id, _, _ = accepted_job(engine)
    accepted_job(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = credits + 1 WHERE id = :id"), {"id": user_id})
    found = await of_rows(http)
    assert (found["ledger_checked_users"], found["ledger_wrong_users"]) == (2, 1)


async def test_what_redis_tells_of_queues_and_sweeps(
    http: httpx.AsyncClient, client: Client, settings: Settings
) -> None:
    assert (await client.submit()).status_code == 202
    notes = SweepNotes(settings.redis_url)
    notes.note("sent")
    notes.note("finished")
    found = await of_rows(http)
    assert found[f"queue_messages {START_QUEUE}"] == 4
    assert 0 <= found["sweep_sent_age_seconds"] < 60
    assert 0 <= found["sweep_age_seconds"] < 60


async def test_without_redis_its_figures_are_absent_and_that_is_said(settings: Settings) -> None:
    from contextlib import AsyncExitStack

    from tests.api_client import serve

    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with AsyncExitStack() as stack:
        found = await of_rows(await serve(stack, away))
    assert found["redis_answers"] == 0
    assert not {name for name in found if name.startswith(("queue_messages", "sweep"))}


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
    found = await of_rows(http)
    assert found["duplicate_predictions"] == 1
    assert found["duplicate_predictions_cost_usd"] == float(PRICE)


async def test_no_figure_reads_the_history(engine: Engine) -> None:
    """A plan that reads a whole table grows with it; planned as if nothing were small."""
    plan = ""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement in (figures._WORK, figures._BOOKS, figures._LEDGER):
            plan += "\n".join(connection.execute(text(f"EXPLAIN {statement.text}")).scalars())
    assert "Seq Scan" not in plan
    used = {"ix_photos_due", "ix_jobs_overdue", "uq_attempts_one_open", "ix_attempts_unclosed", "ix_attempts_lost",
            "ix_attempts_duplicate", "ix_deliveries_due", "ix_deliveries_given_up", "ix_loose_objects_delete_after",
            "ix_ledger_entries_user_id_id", "pk_users"}  # fmt: skip
    assert {name for name in used if name in plan} == used
    # A random place that is drawn anew for every row would be a filter, and no place.
    assert "Index Cond: (id >= (InitPlan" in plan or "Index Cond: (id >= $" in plan


async def test_without_a_database_it_says_so(settings: Settings) -> None:
    from contextlib import AsyncExitStack

    from tests.api_client import serve

    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    async with AsyncExitStack() as stack:
        assert (await (await serve(stack, away)).get("/metrics")).status_code == 503


async def test_a_token_closes_it_for_all_who_do_not_know_it(settings: Settings) -> None:
    from contextlib import AsyncExitStack

    from tests.api_client import serve

    closed = settings.model_copy(update={"metrics_token": SecretStr("scraper's word")})
    async with AsyncExitStack() as stack:
        http = await serve(stack, closed)
        for wrong in ({}, {"Authorization": "Bearer another"}, {"Authorization": "Bearer "}):
            assert (await http.get("/metrics", headers=wrong)).status_code == 401
        assert await everything(http, Authorization="Bearer scraper's word")


# --- What a process counts


async def test_requests_are_counted_by_template_and_never_by_what_people_send(
    http: httpx.AsyncClient, client: Client
) -> None:
    counted = await Counted.since_now(http)
    for job_id in (uuid4(), uuid4()):
        assert (await client.get(f"/jobs/{job_id}")).status_code == 404
    assert (await client.get(f"/jobs/{uuid4()}?wait=1")).status_code == 404
    assert (await http.get(f"/{uuid4()}.php")).status_code == 404
    assert (await http.request("BREW", "/styles")).status_code == 405
    assert (await http.get("/api/ai/generations")).status_code == 401
    found = await counted.by(http, "http_requests_total", "http_request_seconds_count")
    assert found.pop("http_requests_total OTHER /styles 4xx") == 1
    found.pop("http_request_seconds_count OTHER /styles")
    assert {name: value for name, value in found.items() if "/metrics" not in name} == {
        "http_requests_total GET /jobs/{job_id} 4xx": 3,
        "http_request_seconds_count GET /jobs/{job_id}": 2,
        f"http_requests_total GET {NO_ROUTE} 4xx": 1,
        f"http_request_seconds_count GET {NO_ROUTE}": 1,
        "http_requests_total GET /api/ai/generations 4xx": 1,
        "http_request_seconds_count GET /api/ai/generations": 1,
    }


async def test_every_outcome_of_a_submission_is_counted(http: httpx.AsyncClient, client: Client) -> None:
    counted = await Counted.since_now(http)
    first = {"Idempotency-Key": "first"}
    assert (await client.submit(**first)).status_code == 202
    assert (await client.submit(**first)).status_code == 200
    await client.submit(style="MODERN", **first)
    await client.submit(style=None)
    await client.submit(pictures.no_face())
    await client.submit(b"no picture")
    assert await counted.by(http, "submissions_total") == {
        "submissions_total accepted": 1,
        "submissions_total replayed": 1,
        "submissions_total idempotency_conflict": 1,
        "submissions_total missing_field": 1,
        "submissions_total no_face": 1,
        "submissions_total invalid_image": 1,
    }
    faces = await counted.by(http, "face_check_seconds_count")
    assert faces == {"face_check_seconds_count one": 1, "face_check_seconds_count none": 1}


async def test_a_photos_way_is_counted_step_by_step(
    http: httpx.AsyncClient, engine: Engine, settings: Settings
) -> None:
    counted = await Counted.since_now(http)
    predictor = ScriptedPredictor()
    sessions = sessionmaker(engine, expire_on_commit=False)
    storage = ObservedStorage(DiskStorage(settings.data_dir / "objects"), "disk")
    impatient = settings.model_copy(update={"photo_attempts_max": 1})
    generation = Generation(sessions, storage, ObservedPredictor(predictor), ChangeNotes(settings.redis_url), impatient)
    _, job_id, photo_ids = accepted_job(engine)
    storage.put(jobs.portrait_key(job_id), b"portrait", "image/jpeg")
    predictor.starts += [Never("bad_input", "no"), Unknown("cut"), NotYet(1, "later")]
    for photo_id in photo_ids[:3]:
        generation.start(photo_id)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 s'"))
    from shared.settlement_log import log_settlement

    with sessions.begin() as session:
        settlement = jobs.settle_overdue(session, job_id)
    assert settlement is not None
    log_settlement(settlement)
    found = await counted.by(http, "attempts_total", "creates", "provider_seconds_count", "jobs_ended", "refunds_total",
                             "storage_seconds_count")  # fmt: skip
    assert found == {
        "attempts_total scripted FAILED": 1,
        "creates_unanswered_total": 1,
        "provider_seconds_count create never replicate": 1,
        "provider_seconds_count create unknown replicate": 1,
        "provider_seconds_count create not_yet replicate": 1,
        "storage_seconds_count disk put ok": 1,
        "jobs_ended_total FAILED": 1,
        "refunds_total FAILED": 1,
    }


async def test_calls_to_the_storage_are_told_apart_by_how_they_went(http: httpx.AsyncClient, tmp_path: Path) -> None:
    counted = await Counted.since_now(http)
    storage = ObservedStorage(DiskStorage(tmp_path / "objects"), "disk")
    storage.put("a/b", b"x", "image/jpeg")
    assert storage.get("a/b").body == b"x"
    with pytest.raises(ObjectNotFound):
        storage.get("a/c")
    (tmp_path / "file").write_text("in the way of a directory")
    with pytest.raises(StorageUnavailable):
        ObservedStorage(DiskStorage(tmp_path / "file"), "disk").put("a/b", b"x", "image/jpeg")
    storage.delete(["a/b"])
    assert await counted.by(http, "storage_seconds_count") == {
        "storage_seconds_count disk put ok": 1,
        "storage_seconds_count disk get ok": 1,
        "storage_seconds_count disk get missing": 1,
        "storage_seconds_count disk put unavailable": 1,
        "storage_seconds_count disk delete ok": 1,
    }


async def test_waiting_for_the_budget_is_counted(http: httpx.AsyncClient) -> None:
    class Spent:
        def take(self, *_: object) -> float:
            return 7.5

    counted = await Counted.since_now(http)
    budgeted = BudgetedPredictor(ScriptedPredictor(), Spent())  # type: ignore[arg-type]
    assert budgeted.start(an_order()) == NotYet(7.5, "the provider budget")
    assert await counted.by(http, "budget_wait_seconds_sum", "budget_wait_seconds_count") == pytest.approx(
        {"budget_wait_seconds_count create": 1, "budget_wait_seconds_sum create": 7.5}  # of a sum that others add to
    )


# --- Several processes

COUNTING = """
import sys
from shared.metrics import REFUNDS, forget_dead_processes, page
forget_dead_processes()
REFUNDS.labels("FAILED").inc()
print("counted", flush=True)
sys.stdin.readline()
sys.stdout.write(page().decode())
"""


def counting_process(directory: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def refunds_told_by(process: "subprocess.Popen[str]") -> float:
    page, _ = process.communicate("go\n", timeout=60)
    return parsed(page)["refunds_total FAILED"]


def test_processes_that_share_a_port_tell_of_all_and_what_is_left_of_an_earlier_run_is_forgotten(
    tmp_path: Path,
) -> None:
    killed = counting_process(tmp_path)
    other = counting_process(tmp_path)
    killed.kill()
    killed.communicate()
    late = counting_process(tmp_path)
    assert refunds_told_by(late) == 3, "while another lives, the counts of the dead stay"
    assert refunds_told_by(other) == 3
    next_run = counting_process(tmp_path)
    assert refunds_told_by(next_run) == 1
    assert len(list(tmp_path.glob("counter_*.db"))) == 1


@pytest.mark.timeout(300)
def test_api_worker_and_beat_can_all_be_watched(running_stack: Callable[..., RunningStack], settings: Settings) -> None:
    from tests.test_end_to_end import Person

    stack = running_stack()
    person = Person(stack, settings)
    assert person.end(person.submit().json()["id"])["status"] == "COMPLETED"

    def api() -> dict[str, float]:
        return parsed(person.http.get("/metrics").text)

    def worker() -> dict[str, float]:
        return parsed(httpx.get(f"{stack.health_url('worker')}/metrics", trust_env=False).text)

    assert api()["submissions_total accepted"] == 1
    assert api()["storage_seconds_count disk put ok"] == 1
    told = worker()
    assert told["attempts_total preview SUCCEEDED"] == 4
    assert told["jobs_ended_total COMPLETED"] == 1
    assert told["provider_seconds_count create ok preview"] == 4
    assert told["storage_seconds_count disk put ok"] == 8  # photos and thumbnails
    assert told["task_seconds_count done start_photo"] >= 4
    wait_until(lambda: worker().get("sweep_seconds_count", 0) >= 1, 30)
    wait_until(lambda: api()["sweep_age_seconds"] < 10 and api()["sweep_sent_age_seconds"] < 10, 30)
    stack.stop("beat")
    # The last sweep may still come to its end; then neither is heard of any more.
    wait_until(lambda: api()["sweep_sent_age_seconds"] > 3, 30)
    stack.stop("worker")
    wait_until(lambda: api()["sweep_age_seconds"] > 3, 30)
