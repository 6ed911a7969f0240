"""Deleting a job: its pictures are gone for everybody, its credit's story stays; and all photos in one archive."""

from io import BytesIO
from uuid import uuid4
from zipfile import ZIP_STORED, ZipFile

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared.audit import audit
from shared.disk_storage import DiskStorage
from shared.job_story import read_story
from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, finish, refused
from tests.event_reader import following
from tests.rows import money_is_right
from worker.sweeper import delete_loose_objects

pytestmark = pytest.mark.anyio


async def delete(client: Client, job_id: object) -> object:
    return await client.http.delete(f"/jobs/{job_id}", headers=client.headers)


def whole(engine: Engine, settings: Settings, job: dict[str, object], stored: int = 4) -> DiskStorage:
    """The job finished as a worker does it, to the last promise that an audit looks at."""
    finish(engine, settings, job, stored)
    storage = DiskStorage(settings.data_dir / "objects")
    with engine.begin() as connection:
        for key, slot in connection.execute(text("SELECT object_key, slot FROM photos WHERE object_key > ''")).all():
            small = f"thumbnails/{job['id']}/{slot}"
            storage.put(small, b"RIFF0000WEBP", "image/webp")
            size = {"size": len(pictures.one_face()), "key": key, "small": small}
            connection.execute(
                text("UPDATE photos SET size_bytes = :size, thumbnail_key = :small WHERE object_key = :key"), size
            )
    return storage


async def test_a_deleted_job_is_gone_with_its_pictures_and_its_ledger_stays(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)
    done = (await client.get(f"/jobs/{job['id']}")).json()
    await client.http.put(
        f"/jobs/{job['id']}/selection", json={"photo_id": done["photos"][1]["id"]}, headers=client.headers
    )
    assert len(list(storage.list(""))) == 9
    refused(await delete(stranger, job["id"]), 404, "not_found")
    refused(await delete(client, uuid4()), 404, "not_found")

    answer = await delete(client, job["id"])
    assert (answer.status_code, answer.content) == (204, b"")
    for address in (
        done["portrait_url"],
        *(photo[url] for photo in done["photos"] for url in ("url", "thumbnail_url")),
    ):
        refused(await client.http.get(address), 404, "not_found")
    for path in ("", "/events", "/photos.zip"):
        refused(await client.get(f"/jobs/{job['id']}{path}"), 404, "not_found")
    refused(await delete(client, job["id"]), 404, "not_found")
    refused(await client.http.post(f"/jobs/{job['id']}/cancel", headers=client.headers), 404, "not_found")
    assert (await client.get("/jobs")).json()["jobs"] == []
    assert [entry["kind"] for entry in (await client.get("/me/credits")).json()["entries"]] == ["CHARGE", "SIGNUP"]

    delete_loose_objects(sessionmaker(engine), storage)
    assert list(storage.list("")) == []
    assert not [finding for finding in audit(engine, storage, deep=True).findings if not finding.proved]
    money_is_right(engine)
    with Session(engine) as session:
        assert "job.deleted" in [line.what for line in read_story(session, job["id"]).lines]


async def test_a_job_in_work_is_canceled_first(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    async with following(client, f"/jobs/{job['id']}/events") as stream:
        await stream.until(1)
        assert (await delete(client, job["id"])).status_code == 204  # type: ignore[attr-defined]
        assert [event.name for event in await stream.to_the_end()] == ["job.accepted", "job.canceled"]
    assert await client.balance() == 2
    storage = DiskStorage(settings.data_dir / "objects")
    delete_loose_objects(sessionmaker(engine), storage)
    assert list(storage.list("")) == []
    assert not [finding for finding in audit(engine, storage).findings if not finding.proved]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE photos SET deleted_at = NULL, object_key = 'photos/kept' WHERE slot = 2",
        "DELETE FROM job_events WHERE name = 'job.deleted'",
    ],
)
async def test_the_audit_finds_a_job_that_was_not_wholly_deleted(
    client: Client, engine: Engine, settings: Settings, harm: str
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)
    await delete(client, job["id"])
    with engine.begin() as connection:
        connection.execute(text(harm))
    found = [finding for finding in audit(engine, storage).findings if not finding.proved]
    assert [offence.id for finding in found if "deleted job" in finding.says for offence in finding.offences] == [
        job["id"]
    ]


async def test_all_stored_photos_come_in_one_archive(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    refused(await client.get(f"/jobs/{job['id']}/photos.zip"), 409, "photo_not_stored")
    storage = whole(engine, settings, job, stored=3)
    refused(await stranger.get(f"/jobs/{job['id']}/photos.zip"), 404, "not_found")
    answer = await client.get(f"/jobs/{job['id']}/photos.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert f'filename="cuggu-classic-{job["id"][:8]}.zip"' in answer.headers["content-disposition"]
    with ZipFile(BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["cuggu-1.jpg", "cuggu-2.jpg", "cuggu-3.jpg"]
        assert {about.compress_type for about in archive.infolist()} == {ZIP_STORED}
        assert archive.read("cuggu-2.jpg") == pictures.one_face()
    with engine.connect() as connection:
        storage.delete(connection.execute(text("SELECT object_key FROM photos WHERE slot = 0")).scalars())
    refused(await client.get(f"/jobs/{job['id']}/photos.zip"), 404, "not_found")
