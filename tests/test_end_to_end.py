"""The whole way through real processes: API, Celery worker, beat, PostgreSQL, Redis, and the vendors' doubles."""

import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from sqlalchemy import Engine, text

from api.auth import development_token
from cli.embedded import EmbeddedRedis
from cli.vendors import Vendors, doubled_vendors
from shared.settings import Settings
from tests import photos as pictures
from tests.rows import money_is_right
from tests.stack import RunningStack

pytestmark = pytest.mark.timeout(300)
ENDED = ("COMPLETED", "PARTIAL", "FAILED", "CANCELED")
PATIENCE_SECONDS = 90  # for processes that share two cores with other tests
# A lost worker is noticed soon, and a photo that a stopped Redis swallowed is sent again soon.
QUICK = {"LEASE_SECONDS": "4", "RESEND_SECONDS": "2", "CHECK_INTERVAL_SECONDS": "0.5"}

Start = Callable[..., RunningStack]


class Person:
    """Somebody at a browser."""

    def __init__(self, stack: RunningStack, settings: Settings, email: str = "couple@example.com") -> None:
        token = development_token(settings, email)
        self.http = httpx.Client(
            base_url=stack.api_url, headers={"Authorization": f"Bearer {token}"}, timeout=130, trust_env=False
        )

    def submit(self, path: str = "/jobs", image: bytes | None = None) -> httpx.Response:
        files = {"image": ("me.jpg", image or pictures.one_face(), "image/jpeg")}
        return self.http.post(path, files=files, data={"style": "CLASSIC"})

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.http.get(f"/jobs/{job_id}").raise_for_status().json()
        return job

    def wait(self, job_id: str, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready(job := self.http.get(f"/jobs/{job_id}", params={"wait": 2}).raise_for_status().json()):
            assert time.monotonic() < deadline, job
        return dict(job)

    def end(self, job_id: str) -> dict[str, Any]:
        return self.wait(job_id, lambda job: job["status"] in ENDED)

    def credits(self) -> int:
        return int(self.http.get("/me").json()["credits"])


def is_being_made(job: dict[str, Any]) -> bool:
    return bool(job["status"] == "PROCESSING")


def test_the_plans_whole_flow(running_stack: Start, settings: Settings, engine: Engine) -> None:
    """Upload, style, four photos, 2 -> 1 credits, history, selection; by our routes and by the plan's."""
    person = Person(running_stack(), settings)
    assert person.credits() == 2
    job = person.end(person.submit().json()["id"])
    assert (job["status"], job["progress"]) == ("COMPLETED", {"done": 4, "total": 4})
    shown = [Image.open(BytesIO(person.http.get(photo["url"]).content)) for photo in job["photos"]]
    assert [picture.size for picture in shown] == [(900, 1200)] * 4
    for one, other in pairwise(shown):
        assert ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is not None
    assert person.credits() == 1
    assert [entry["id"] for entry in person.http.get("/jobs").json()["jobs"]] == [job["id"]]
    chosen = person.http.put(f"/jobs/{job['id']}/selection", json={"photo_id": job["photos"][1]["id"]})
    assert chosen.json()["selected_photo_id"] == job["photos"][1]["id"]

    answer = person.submit("/api/ai/generate")
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert (data["style"], data["remainingCredits"], len(data["generatedUrls"])) == ("CLASSIC", 0, 4)
    assert Image.open(BytesIO(person.http.get(data["generatedUrls"][3]).content)).size == (900, 1200)
    assert person.submit().json()["code"] == "insufficient_credits"
    assert person.submit("/api/ai/generate").json() == {"error": "Insufficient credits", "balance": 0}
    money_is_right(engine)


def test_what_is_refused_over_a_real_connection_is_heard(running_stack: Start, settings: Settings) -> None:
    person = Person(running_stack(processes=("api",)), settings)
    for image, code in (
        (pictures.eleven_megabytes(), "file_too_large"),
        (pictures.no_face(), "no_face"),
        (pictures.group(), "multiple_faces"),
    ):
        answer = person.submit(image=image)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert person.credits() == 2


def test_a_killed_workers_job_is_finished_by_the_next_one(
    running_stack: Start, settings: Settings, engine: Engine
) -> None:
    stack = running_stack(env={**QUICK, "PREVIEW_SECONDS": "3"})
    person = Person(stack, settings)
    job_id = person.submit().json()["id"]
    person.wait(job_id, is_being_made)
    stack.kill("worker")
    stack.start("worker")
    assert person.end(job_id)["status"] == "COMPLETED"
    assert person.credits() == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM attempts WHERE outcome = 'SUCCEEDED'")).scalar_one() == 4
    money_is_right(engine)


def test_a_submission_without_redis_is_accepted_and_made_once_redis_is_back(
    running_stack: Start, settings: Settings, open_dir: Path
) -> None:
    with EmbeddedRedis(open_dir, durable=False) as redis:
        stack = running_stack(env={**QUICK, "REDIS_URL": redis.url})
        person = Person(stack, settings)
        assert person.credits() == 2
        redis.stop()
        began = time.monotonic()
        answer = person.submit()
        seconds = time.monotonic() - began
        assert answer.status_code == 202, answer.text
        assert seconds < 3, "the answer waited for a Redis that was away"
        redis.start()
        assert person.end(answer.json()["id"])["status"] == "COMPLETED"
        assert person.credits() == 1


@pytest.fixture
def vendors(tmp_path: Path) -> Iterator[Vendors]:
    with doubled_vendors(tmp_path) as vendors:
        yield vendors


def dial(url: str, **dials: Any) -> None:
    httpx.post(f"{url}/_dials", json=dials, trust_env=False).raise_for_status()


def test_photos_of_the_real_clients_are_paid_for_once_and_told_of_by_webhook(
    running_stack: Start, settings: Settings, vendors: Vendors, engine: Engine
) -> None:
    # Without the webhooks nobody would look again before the test gives up.
    person = Person(running_stack(env={**vendors.environment, "CHECK_INTERVAL_SECONDS": "100"}), settings)
    job = person.end(person.submit().json()["id"])
    assert job["status"] == "COMPLETED"
    with httpx.Client(trust_env=False) as anybody:
        for photo in job["photos"]:
            signed = person.http.get(photo["url"])
            assert signed.status_code == 307
            assert anybody.get(signed.headers["location"]).headers["content-type"] == "image/jpeg"
    proof = vendors.proof(job["id"], settings.database_url)
    assert len(proof["replicate"]["predictions"]) == 4
    assert len(proof["s3"]["objects"]) == 4
    assert proof["azure"]["calls"] == 1
    assert {attempt["prediction_id"] for attempt in proof["attempts"]} == {
        prediction["id"] for prediction in proof["replicate"]["predictions"]
    }
    money_is_right(engine)


def test_a_provider_that_fails_for_good_gives_the_credit_back(
    running_stack: Start, settings: Settings, vendors: Vendors, engine: Engine
) -> None:
    dial(vendors.replicate_url, outcome_rates={"failed": 1.0})
    person = Person(running_stack(env={**vendors.environment, **QUICK, "PHOTO_ATTEMPTS_MAX": "2"}), settings)
    job = person.end(person.submit().json()["id"])
    assert (job["status"], job["error"]["refunded"]) == ("FAILED", True)
    assert person.credits() == 2
    money_is_right(engine)


def test_a_storage_that_stays_away_gives_the_credit_back(
    running_stack: Start, settings: Settings, vendors: Vendors, engine: Engine
) -> None:
    # Attempts enough for the deadline to come first: the provider cannot fetch the portrait from there, either.
    patient = {"JOB_DEADLINE_SECONDS": "12", "PHOTO_ATTEMPTS_MAX": "100"}
    stack = running_stack(env={**vendors.environment, **QUICK, **patient}, processes=("api",))
    person = Person(stack, settings)
    job_id = person.submit().json()["id"]
    stack.change_env(S3_ENDPOINT_URL="http://127.0.0.1:1")
    stack.start("worker")
    stack.start("beat")
    job = person.end(job_id)
    assert (job["status"], job["error"]["code"], job["error"]["refunded"]) == ("FAILED", "deadline_exceeded", True)
    assert person.credits() == 2
    money_is_right(engine)
