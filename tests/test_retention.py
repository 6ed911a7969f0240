"""Pictures go after their time: the portrait soon after the job's end, the photos a while later."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared import retention
from shared.audit import audit
from shared.disk_storage import DiskStorage
from shared.settings import Settings
from tests.api_client import Client, refused
from tests.test_deletion import whole
from worker.retention import JOBS_PER_STEP, expire_pictures
from worker.sweeper import delete_loose_objects

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600, 86_400


class Notes:
    def tell(self, job_id: object) -> None:
        """Nobody listens."""


def age(engine: Engine, seconds: float) -> None:
    """Every job that has ended has done so `seconds` ago."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET completed_at = now() - :age * interval '1 s' WHERE completed_at IS NOT NULL"),
            {"age": seconds},
        )


def look(engine: Engine, settings: Settings, storage: DiskStorage) -> list[str]:
    """One look, and the keys that are left once its loose objects are gone."""
    sessions = sessionmaker(engine)
    expire_pictures(sessions, Notes(), settings)  # type: ignore[arg-type]
    delete_loose_objects(sessions, storage)
    return [info.key for info in storage.list("")]


async def test_the_portrait_goes_first_and_cannot_be_used_again(
    client: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)
    age(engine, HOUR - 60)
    assert len(look(engine, settings, storage)) == 9
    again = {"portrait_of": (None, job["id"]), "style": (None, "MODERN")}
    second = await client.http.post("/jobs", files=again, headers=client.headers)
    assert second.status_code == 202

    age(engine, HOUR + 1)  # the second job is in work: its own copy of the portrait stays
    left = look(engine, settings, storage)
    assert len([key for key in left if key.startswith("photos/")]) == 4
    assert len([key for key in left if key.startswith("portraits/")]) == 1
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert told["portrait_url"] is None
    assert all(photo["url"] for photo in told["photos"])
    refused(await client.http.get(job["portrait_url"]), 404, "not_found")
    await client.http.post(f"/jobs/{second.json()['id']}/cancel", headers=client.headers)  # gives the credit back
    refused(await client.http.post("/jobs", files=again, headers=client.headers), 409, "portrait_deleted")
    assert not [finding for finding in audit(engine, storage).findings if not finding.proved]


async def test_photos_go_after_their_days_and_the_job_tells_so(
    client: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit(**{"Idempotency-Key": "once"})).json()
    storage = whole(engine, settings, job, stored=3)
    done = (await client.get(f"/jobs/{job['id']}")).json()
    age(engine, 29 * DAY)
    look(engine, settings, storage)
    assert (await client.get(f"/jobs/{job['id']}")).json()["photos_deleted_at"] is None

    age(engine, 30 * DAY + 1)
    assert look(engine, settings, storage) == []
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert told["photos_deleted_at"] is not None
    assert (told["status"], told["progress"]) == ("PARTIAL", {"done": 3, "total": 4})
    assert [(photo["url"], photo["thumbnail_url"]) for photo in told["photos"]] == [(None, None)] * 4
    assert [photo["gone"] for photo in told["photos"]] == [True, True, True, False]
    for photo in done["photos"][:3]:
        refused(await client.http.get(photo["url"]), 404, "not_found")
        refused(await client.http.get(photo["thumbnail_url"]), 404, "not_found")
    refused(await client.get(f"/jobs/{job['id']}/photos.zip"), 409, "photo_not_stored")
    choice = {"photo_id": done["photos"][0]["id"]}
    answer = await client.http.put(f"/jobs/{job['id']}/selection", json=choice, headers=client.headers)
    refused(answer, 409, "photo_not_stored")
    listed = (await client.get("/jobs")).json()["jobs"]
    assert [entry["photos"] for entry in listed] == [told["photos"]]
    # What told two requests apart is a hash of the picture: it went with the photos, and the key with it.
    with engine.connect() as connection:
        row = connection.execute(text("SELECT idempotency_key, request_fingerprint FROM jobs")).one()
    assert tuple(row) == (None, "")
    assert not [finding for finding in audit(engine, storage, deep=True).findings if not finding.proved]


async def test_a_job_in_work_keeps_its_pictures_and_an_expired_one_can_be_deleted(
    client: Client, engine: Engine, settings: Settings
) -> None:
    impatient = settings.model_copy(update={"portrait_retention_seconds": 0, "photo_retention_days": 1e-6})
    job = (await client.submit()).json()
    storage = DiskStorage(settings.data_dir / "objects")
    assert len(look(engine, impatient, storage)) == 1
    whole(engine, settings, job)
    age(engine, 1)
    assert look(engine, impatient, storage) == []
    assert (await client.http.delete(f"/jobs/{job['id']}", headers=client.headers)).status_code == 204
    delete_loose_objects(sessionmaker(engine), storage)
    assert not [finding for finding in audit(engine, storage).findings if not finding.proved]


async def test_the_audit_finds_a_photo_that_outlived_its_job(
    client: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET photos_deleted_at = now()"))
    found = [finding for finding in audit(engine, storage).findings if not finding.proved]
    assert [(finding.says, finding.offences[0].id) for finding in found] == [
        ("a job whose photos' time is over keeps none", job["id"])
    ]


def test_two_looks_at_once_share_the_work_and_each_is_bounded(engine: Engine) -> None:
    many(engine, 3)
    with Session(engine) as one, Session(engine) as other:
        assert retention.expire_portraits(one, HOUR, 2) == 2
        assert retention.expire_portraits(other, HOUR, 2) == 1, "what the first holds is left to it"
        one.commit()
        other.commit()
        assert retention.expire_portraits(one, HOUR, 2) == 0


def test_a_look_reads_what_is_due_and_not_the_history(engine: Engine) -> None:
    many(engine, 20_000, ", portrait_deleted_at, photos_deleted_at", ", now(), now()")
    many(engine, 3)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE jobs"))
        for column, index in (("portrait", "ix_jobs_portrait_kept"), ("photos", "ix_jobs_photos_kept")):
            plan = connection.execute(
                text(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT id FROM jobs WHERE {column}_deleted_at IS NULL "
                    "AND completed_at IS NOT NULL AND completed_at <= cuggu_now() - interval '1 hour' "
                    f"ORDER BY completed_at LIMIT {JOBS_PER_STEP} FOR UPDATE SKIP LOCKED"
                )
            ).scalar_one()[0]
            assert index in str(plan)
            assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 20


def many(engine: Engine, count: int, columns: str = "", values: str = "") -> None:
    """Jobs that ended two days ago, as one insert makes them."""
    with engine.begin() as connection:
        user = connection.execute(
            text("INSERT INTO users (id, email) VALUES (gen_random_uuid(), gen_random_uuid()::text) RETURNING id")
        ).scalar_one()
        connection.execute(
            text(
                f"INSERT INTO jobs (id, user_id, style, status, portrait_id, request_fingerprint, deadline_at, "
                f"completed_at{columns}) SELECT gen_random_uuid(), :user, 'CLASSIC', 'FAILED', gen_random_uuid(), '', "
                f"now(), now() - interval '2 days'{values} FROM generate_series(1, :count)"
            ),
            {"user": user, "count": count},
        )
