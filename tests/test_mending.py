"""The slow look over the whole storage: what it deletes, what it writes off, and when it does not dare to."""

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared import mending
from shared.audit import audit
from shared.audit_objects import look_at_stretch
from shared.disk_storage import DiskStorage
from shared.settings import Settings
from tests.api_client import Client, events, finish
from tests.photos import one_face
from tests.test_deletion import whole
from worker import mending as worker_mending
from worker.mending import ORPHAN_SECONDS, Mending
from worker.sweeper import delete_loose_objects

pytestmark = pytest.mark.anyio


def grow_old(settings: Settings, *keys: str) -> None:
    long_ago = time.time() - ORPHAN_SECONDS - 60
    for key in keys:
        os.utime(settings.data_dir / "objects" / key, (long_ago, long_ago))


def look(engine: Engine, storage: Any) -> list[str]:
    """One whole look, however lately the last one was, and the keys that are left."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE storage_looks SET begun_at = begun_at - interval '1 hour'"))
    Mending(engine, storage).go_on()
    delete_loose_objects(sessionmaker(engine), storage)
    return [info.key for info in storage.list("")]


async def test_objects_that_no_row_promises_go_once_they_are_old(
    client: Client, engine: Engine, settings: Settings
) -> None:
    storage = whole(engine, settings, (await client.submit()).json())
    promised = [info.key for info in storage.list("")]
    orphans = [f"photos/{uuid4()}/0/{uuid4()}", f"portraits/{uuid4()}", f"thumbnails/{uuid4()}/1/{uuid4()}"]
    orphans.append("probe/1")
    for key in orphans:
        storage.put(key, b"?", "image/jpeg")
    assert sorted(look(engine, storage)) == sorted([*promised, *orphans]), "they may be on their way"
    grow_old(settings, *orphans)
    assert look(engine, storage) == promised
    assert not [finding for finding in audit(engine, storage).findings if not finding.proved]


async def test_what_lies_outside_our_folders_is_somebody_elses(
    client: Client, engine: Engine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    storage = whole(engine, settings, (await client.submit()).json())
    theirs = ["invoices/2026/11.pdf", "a-photos/1", "zzz"]
    for key in theirs:
        storage.put(key, b"?", "application/pdf")
    grow_old(settings, *theirs)
    assert set(theirs) <= set(look(engine, storage))
    assert [event for event in events(caplog) if event["event"].startswith("object")] == []


async def test_a_row_whose_object_is_lost_says_so(
    client: Client, engine: Engine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)
    with engine.connect() as connection:
        photo, small = connection.execute(text("SELECT object_key, thumbnail_key FROM photos WHERE slot = 1")).one()
        only_small = connection.scalar(text("SELECT thumbnail_key FROM photos WHERE slot = 2"))
    portrait = f"portraits/{UUID(job['portrait_url'].rpartition('/')[2])}"
    storage.delete([photo, only_small, portrait])
    assert [finding.promise for finding in audit(engine, storage).findings if not finding.proved] == ["I2", "I6"]

    left = look(engine, storage)
    assert small not in left, "the thumbnail of a photo that is gone goes with it"
    assert len(left) == 5
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert [photo["url"] is None for photo in told["photos"]] == [False, True, False, False]
    assert told["portrait_url"] is None
    assert (await client.http.get(told["photos"][2]["thumbnail_url"])).status_code == 200
    found = audit(engine, storage)
    assert found.proved
    assert found.lost == 3
    lost = [event for event in events(caplog) if event["event"] == "object.lost"]
    assert len(lost) == 3
    assert {event["level"] for event in lost} == {"error"}
    assert await client.balance() == 1, "what was lost later is no reason to give the credit back by itself"


async def test_a_job_in_work_is_left_alone(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    storage = DiskStorage(settings.data_dir / "objects")
    storage.delete([info.key for info in storage.list("portraits/")])
    storage.put("photos/stray", b"?", "image/jpeg")
    look(engine, storage)
    assert (await client.get(f"/jobs/{job['id']}")).json()["portrait_url"] is not None


async def test_a_photo_that_is_lost_while_its_job_is_in_work_was_stored_all_the_same(
    client: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, {**job, "photos": job["photos"][:2]})
    storage = DiskStorage(settings.data_dir / "objects")
    with engine.connect() as connection:
        lost = connection.scalar(text("SELECT object_key FROM photos WHERE slot = 0"))
    storage.delete([lost])
    look(engine, storage)
    finish(engine, settings, {**job, "photos": job["photos"][2:]})
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert (told["status"], told["progress"]["done"]) == ("COMPLETED", 4)
    assert [photo["gone"] for photo in told["photos"]] == [True, False, False, False]
    assert await client.balance() == 1
    with engine.begin() as connection:
        connection.execute(text("UPDATE photos SET size_bytes = :size"), {"size": len(one_face())})
    assert [(f.promise, f.says) for f in audit(engine, storage).findings if not f.proved] == []


async def test_an_empty_storage_is_another_one(
    client: Client, engine: Engine, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = (await client.submit()).json()
    whole(engine, settings, job)
    assert look(engine, DiskStorage(tmp_path / "another")) == []
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert all(photo["url"] for photo in told["photos"])
    assert [event["event"] for event in events(caplog) if event["level"] == "error"] == ["objects.missing"]


async def test_where_most_is_wrong_nothing_is_touched(
    client: Client,
    engine: Engine,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker_mending, "ACCIDENTS", 5)
    job = (await client.submit()).json()
    whole(engine, settings, job)
    wrong = DiskStorage(tmp_path / "another")
    strangers = [f"photos/{uuid4()}/0/{uuid4()}" for _ in range(6)]
    for key in strangers:
        wrong.put(key, b"?", "image/jpeg")
        long_ago = time.time() - ORPHAN_SECONDS - 60
        os.utime(tmp_path / "another" / key, (long_ago, long_ago))
    assert sorted(look(engine, wrong)) == sorted(strangers)
    told = (await client.get(f"/jobs/{job['id']}")).json()
    assert all(photo["url"] for photo in told["photos"])
    errors = {event["event"]: event["count"] for event in events(caplog) if event["level"] == "error"}
    assert errors == {"objects.missing": 9, "objects.unknown": 6}


async def test_a_look_goes_on_where_another_stopped(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_mending, "OBJECTS_PER_STRETCH", 2)
    monkeypatch.setattr(worker_mending, "STEP_SECONDS", 0.0)  # one stretch
    storage = whole(engine, settings, (await client.submit()).json())
    orphan = "thumbnails/zzz"
    storage.put(orphan, b"?", "image/jpeg")
    grow_old(settings, orphan)
    places = []
    for _ in range(6):
        Mending(engine, storage).go_on()
        with engine.connect() as connection:
            places.append(connection.execute(text("SELECT position, ended_at IS NOT NULL FROM storage_looks")).one())
    keys = [info.key for info in storage.list("")]
    assert [tuple(place) for place in places] == [*((keys[at], False) for at in (1, 3, 5, 7, 9)), ("", True)]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT object_key FROM loose_objects")).scalars().all() == [orphan]
    with Session(engine) as session:
        assert mending.take_turn(session) is None, "the next look waits for its time"


def test_one_at_a_time_and_a_dead_one_is_followed(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        assert mending.take_turn(session) == ""
    with Session(engine) as session, session.begin():
        assert mending.take_turn(session) is None
        session.execute(text("UPDATE storage_looks SET busy_until = now() - interval '1 s'"))
        assert mending.take_turn(session) == "", "whoever held it has died"
        mending.note(session, "", "photos/1")
        mending.note(session, "", "photos/0")  # the dead one, after all
        assert mending.take_turn(session) == "photos/1"


def test_every_stretch_finds_just_its_own_rows(engine: Engine, tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "objects")
    jobs = sorted(uuid4() for _ in range(30))
    with engine.begin() as connection:
        user = connection.execute(
            text("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'a') RETURNING id")
        ).scalar_one()
        for job in jobs:
            connection.execute(
                text(
                    "INSERT INTO jobs (id, user_id, style, status, portrait_id, request_fingerprint, deadline_at, "
                    "completed_at) VALUES (:job, :user, 'CLASSIC', 'COMPLETED', :job, '', now(), now())"
                ),
                {"job": job, "user": user},
            )
            keys = {"key": f"photos/{job}/0/a", "small": f"thumbnails/{job}/0/a"}
            connection.execute(
                text(
                    "INSERT INTO photos (id, job_id, slot, status, object_key, thumbnail_key, width, height) "
                    "VALUES (gen_random_uuid(), :job, 0, 'STORED', :key, :small, 1, 1)"
                ),
                {"job": job, **keys},
            )
            for key in (*keys.values(), f"portraits/{job}"):
                storage.put(key, b"?", "image/jpeg")
    lost = [f"photos/{jobs[0]}/0/a", f"photos/{jobs[-1]}/0/a", f"thumbnails/{jobs[7]}/0/a", f"portraits/{jobs[20]}"]
    storage.delete(lost)
    for size in (1, 7, 86, 1000):
        after, found, promises = "", list[str](), 0
        while True:
            stretch = look_at_stretch(engine, storage, after, size)
            assert (stretch.orphans, stretch.others) == ((), ())
            found += stretch.missing
            promises += stretch.promises
            if stretch.until is None:
                break
            after = stretch.until
        assert sorted(found) == sorted(lost)
        assert promises == 90
