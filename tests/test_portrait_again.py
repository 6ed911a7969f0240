"""Another job with the portrait of an earlier one: nothing is uploaded, everything else is as ever."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import sessionmaker

from shared.disk_storage import DiskStorage
from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, refused
from worker.sweeper import delete_loose_objects

pytestmark = pytest.mark.anyio


async def again(client: Client, job_id: object, style: str = "MODERN", **headers: str) -> httpx.Response:
    form = {"portrait_of": (None, str(job_id)), "style": (None, style)}
    return await client.http.post("/jobs", files=form, headers={**client.headers, **headers})


def objects(settings: Settings) -> DiskStorage:
    return DiskStorage(settings.data_dir / "objects")


async def portrait(client: Client, job: dict[str, Any]) -> bytes:
    return (await client.http.get(job["portrait_url"])).content


async def test_a_portrait_is_used_again_and_each_job_has_its_own_copy(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await client.submit()).json()
    monkeypatch.delattr("api.portrait.read_portrait")  # neither decoded again
    monkeypatch.delattr("api.remembered_faces.RememberedFaces.verdict")  # nor looked at
    answer = await again(client, first["id"])
    second = answer.json()
    assert (answer.status_code, second["style"], second["remaining_credits"]) == (202, "MODERN", 0)
    assert second["portrait_url"] != first["portrait_url"]
    assert await portrait(client, second) == await portrait(client, first)
    refused(await again(client, first["id"]), 402, "insufficient_credits")
    # One goes without the other.
    await client.http.delete(f"/jobs/{first['id']}", headers=client.headers)
    delete_loose_objects(sessionmaker(engine), objects(settings))
    assert (await client.http.get(first["portrait_url"])).status_code == 404
    assert len(await portrait(client, second)) > 1000
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM loose_objects")).scalar() == 0


async def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = (await client.submit()).json()
    second = await again(client, first["id"], **{"Idempotency-Key": "again"})
    replay = await again(client, first["id"], **{"Idempotency-Key": "again"})
    assert (replay.status_code, replay.json()["id"]) == (200, second.json()["id"])
    refused(await again(client, first["id"], "VINTAGE", **{"Idempotency-Key": "again"}), 409, "idempotency_conflict")
    refused(await again(client, second.json()["id"], **{"Idempotency-Key": "again"}), 409, "idempotency_conflict")
    refused(await client.submit(**{"Idempotency-Key": "again"}), 409, "idempotency_conflict")
    assert await client.balance() == 0


async def test_only_a_portrait_of_ones_own_that_is_there_can_be_used_again(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    refused(await again(stranger, job["id"]), 404, "not_found")
    refused(await again(client, uuid4()), 404, "not_found")
    refused(await again(client, "nonsense"), 400, "invalid_request")
    both = {"portrait_of": (None, job["id"]), "style": (None, "MODERN"), "image": ("me.jpg", pictures.one_face())}
    refused(await client.http.post("/jobs", files=both, headers=client.headers), 400, "invalid_request")
    objects(settings).delete([f"portraits/{job['portrait_url'].rpartition('/')[2]}"])
    refused(await again(client, job["id"]), 409, "portrait_deleted")
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET portrait_deleted_at = now()"))
    refused(await again(client, job["id"]), 409, "portrait_deleted")
    await client.http.delete(f"/jobs/{job['id']}", headers=client.headers)
    refused(await again(client, job["id"]), 404, "not_found")
    assert await client.balance() == 2, "the canceled job's credit is back, and nothing else was taken"


async def test_jobs_without_an_upload_are_limited_too(client: Client, engine: Engine) -> None:
    job = (await client.submit()).json()
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
    assert [(await again(client, job["id"])).status_code for _ in range(4)] == [202] * 4
    refused(await again(client, job["id"]), 429, "rate_limited")
