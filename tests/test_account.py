"""An account as a whole: everything about it in one archive, its end, and what its end leaves."""

import json
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4
from zipfile import ZipFile

import httpx
import jwt
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from api.auth import DEVELOPMENT_ALGORITHM, DEVELOPMENT_SECRET
from api.dependencies import Parts
from shared import credits, deletion, former_addresses, jobs, leases, loose_objects, photos
from shared.audit import audit
from shared.database import make_engine
from shared.disk_storage import DiskStorage
from shared.errors import NotFound
from shared.settings import Settings
from shared.states import PhotoStatus
from tests import photos as pictures
from tests.api_client import Client, application, finish, refused
from tests.rows import money_is_right, new_job
from tests.test_deletion import whole
from tests.test_retention import Notes
from worker.retention import expire_pictures
from worker.sweeper import delete_loose_objects

pytestmark = pytest.mark.anyio


async def leave(client: Client) -> httpx.Response:
    me = (await client.get("/me")).json()["id"]
    return await client.http.delete("/me", params={"confirm": me}, headers=client.headers)


def kinds(engine: Engine, email: str) -> list[tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT kind, amount FROM ledger_entries JOIN users u ON u.id = user_id WHERE email = :email "
                "ORDER BY ledger_entries.id"
            ),
            {"email": email},
        )
        return [(row.kind, row.amount) for row in rows]


async def test_an_account_goes_with_all_its_jobs_and_the_ledger_stays(
    client: Client, engine: Engine, settings: Settings
) -> None:
    done = (await client.submit(role="BRIDE")).json()
    storage = whole(engine, settings, done)
    at_work = (await client.submit(style="MODERN")).json()
    refused(await client.http.delete("/me", headers=client.headers), 400, "invalid_request")
    wrong = await client.http.delete("/me", params={"confirm": str(uuid4())}, headers=client.headers)
    assert refused(wrong, 400, "invalid_request")["fields"] == ["query.confirm"]
    assert await client.balance() == 0, "nothing has happened yet"

    answer = await leave(client)
    assert (answer.status_code, answer.content) == (204, b"")
    for address in (done["portrait_url"], at_work["portrait_url"], *(f"/media/{p['id']}" for p in done["photos"])):
        refused(await client.http.get(address), 404, "not_found")
    with engine.connect() as connection:
        (user,) = connection.execute(text("SELECT * FROM users")).all()
        statuses = connection.execute(text("SELECT status FROM jobs ORDER BY created_at")).scalars().all()
    assert user.deleted_at is not None
    assert user.email.startswith("deleted-")
    assert "@" not in user.email
    assert statuses == ["COMPLETED", "CANCELED"]
    assert kinds(engine, user.email) == [("SIGNUP", 2), ("CHARGE", -1), ("CHARGE", -1), ("REFUND", 1)]
    money_is_right(engine)

    delete_loose_objects(sessionmaker(engine), storage)
    assert list(storage.list("")) == []
    assert not [finding for finding in audit(engine, storage).findings if not finding.proved]
    with engine.connect() as connection:
        (record,) = connection.execute(text("SELECT * FROM deletions")).all()
    assert (record.user_id, record.kind, record.job_id, record.objects) == (user.id, "ACCOUNT", None, 10)
    assert record.requested_at <= record.gone_at


async def test_who_comes_back_is_somebody_new_without_the_free_credits(
    client: Client, http: httpx.AsyncClient, engine: Engine
) -> None:
    before = (await client.get("/me")).json()
    assert (await http.post("/session", json={"email": client.email})).status_code == 200
    kept = http.cookies.get("cuggu_session")
    assert (await leave(client)).status_code == 204
    assert http.cookies.get("cuggu_session") is None, "this browser forgets it"
    # A copy of the cookie brings nobody back, neither does a token from before.
    refused(await http.get("/me", headers={"Cookie": f"cuggu_session={kept}"}), 401, "unauthorized")
    claims = {"email": client.email, "iss": client.settings.jwt_issuer, "aud": client.settings.jwt_audience}
    now = datetime.now(UTC)
    lasting = {**claims, "exp": now + timedelta(hours=1)}
    old = jwt.encode({**lasting, "iat": now - timedelta(minutes=5)}, DEVELOPMENT_SECRET, DEVELOPMENT_ALGORITHM)
    refused(await http.get("/me", headers={"Authorization": f"Bearer {old}"}), 401, "unauthorized")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM users")) == 1

    new = jwt.encode({**lasting, "iat": now + timedelta(seconds=5)}, DEVELOPMENT_SECRET, DEVELOPMENT_ALGORITHM)
    after = (await http.get("/me", headers={"Authorization": f"Bearer {new}"})).json()
    assert after["id"] != before["id"]
    assert (after["email"], after["credits"]) == (client.email, 0)
    assert (await http.get("/jobs", headers={"Authorization": f"Bearer {new}"})).json()["jobs"] == []
    assert kinds(engine, client.email) == [("SIGNUP", 0)]
    # And may leave again.
    assert (await leave(client)).status_code == 204
    assert (await client.get("/me")).json()["id"] not in (before["id"], after["id"])


async def test_what_the_api_leaves_undone_the_sweep_finishes(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await client.submit()).json()
    storage = whole(engine, settings, job)

    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "delete_next_jobs", dies)
        assert (await leave(client)).status_code == 500
    sessions = sessionmaker(engine)
    delete_loose_objects(sessions, storage)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT gone_at FROM deletions")) is None
    expire_pictures(sessions, Notes(), settings)  # type: ignore[arg-type]
    delete_loose_objects(sessions, storage)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT gone_at FROM deletions")) is not None
    assert list(storage.list("")) == []
    assert audit(engine, storage).proved


async def test_a_photo_that_a_worker_is_putting_goes_too(client: Client, engine: Engine, settings: Settings) -> None:
    """It was announced, and lies there or not; its worker may be dead, or will come back and lose its lease."""
    job = (await client.submit()).json()
    storage = DiskStorage(settings.data_dir / "objects")
    with Session(engine) as session, session.begin():
        claim = leases.claim(session, UUID(job["photos"][0]["id"]), PhotoStatus.PENDING, 60)
        assert claim is not None
        attempt = photos.open_attempt(session, claim, "preview", "preview")
        key = photos.photo_key(claim, attempt)
        loose_objects.expect(session, key)
    storage.put(key, pictures.one_face(), "image/jpeg")
    answer = await client.http.delete(f"/jobs/{job['id']}", headers=client.headers)
    assert answer.status_code == 204
    sessions = sessionmaker(engine)
    delete_loose_objects(sessions, storage)
    assert list(storage.list("")) == []
    storage.put(key, pictures.one_face(), "image/jpeg")  # the worker was still at it
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT gone_at FROM deletions")) is None, "nobody can be sure yet"
        connection.execute(text("UPDATE loose_objects SET delete_after = delete_after - interval '20 s'"))
    delete_loose_objects(sessions, storage)
    assert list(storage.list("")) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE loose_objects SET delete_after = now(), again_after = now()"))
    delete_loose_objects(sessions, storage)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT gone_at FROM deletions")) is not None
        assert connection.scalar(text("SELECT count(*) FROM loose_objects")) == 0


async def test_a_job_that_is_being_accepted_meanwhile_is_not(client: Client, engine: Engine) -> None:
    """The account is given up between a submission's checks and its charge."""
    user_id = UUID((await client.get("/me")).json()["id"])
    with Session(engine) as session, session.begin():
        deletion_id = deletion.leave(session, user_id, None)
    with Session(engine) as session, pytest.raises(NotFound):
        jobs.accept(session, new_job(user_id))
    with Session(engine) as session, pytest.raises(NotFound):
        credits.grant(session, user_id, 1, "too late")
    with Session(engine) as session, pytest.raises(NotFound):
        deletion.leave(session, user_id, None)
    with Session(engine) as session, session.begin():
        assert list(deletion.delete_next_jobs(session, deletion_id)) == []


async def test_many_jobs_are_deleted_in_steps(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "JOBS_PER_STEP", 3)
    user_id = UUID((await client.get("/me")).json()["id"])
    with Session(engine) as session, session.begin():
        credits.grant(session, user_id, 20, "plenty")
        for _ in range(10):
            jobs.accept(session, new_job(user_id))
    other = make_engine(settings.database_url, transaction_pooling=False)
    with Session(engine) as session, session.begin():
        deletion_id = deletion.leave(session, user_id, None)
    steps = 0
    while True:
        with Session(other) as session, session.begin():
            done = deletion.delete_next_jobs(session, deletion_id)
        if not done:
            break
        assert all(settlement is not None for _, settlement in done)
        steps += 1
    other.dispose()
    assert steps == 4
    money_is_right(engine)


async def test_an_address_is_known_again_by_its_key_alone_and_for_a_year(engine: Engine, settings: Settings) -> None:
    key = former_addresses.address_key(settings)
    assert key is not None
    with Session(engine) as session, session.begin():
        former_addresses.remember(session, "Jiwoo@Example.com ", key)
        assert former_addresses.left_at(session, "jiwoo@example.com", key) is not None
        assert former_addresses.left_at(session, "jiwoo@example.com", b"another") is None
        session.execute(text("UPDATE former_addresses SET left_at = left_at - interval '364 days'"))
        former_addresses.forget_old(session)
        assert former_addresses.left_at(session, "jiwoo@example.com", key) is not None
        session.execute(text("UPDATE former_addresses SET left_at = left_at - interval '2 days'"))
        former_addresses.forget_old(session)
        assert former_addresses.left_at(session, "jiwoo@example.com", key) is None
    secret = settings.model_copy(update={"auth_mode": "jwt"})
    assert former_addresses.address_key(secret) is None, "there is no secret to make one of"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("UPDATE users SET email = 'a@example.com'", "a deleted account keeps neither address nor jobs"),
        (
            "UPDATE users SET deleted_at = now() - interval '1 hour'; "
            "UPDATE jobs SET deleted_at = NULL; DELETE FROM job_events WHERE name = 'job.deleted'",
            "a deleted account keeps neither address nor jobs",
        ),
        (
            "UPDATE deletions SET gone_at = NULL, requested_at = now() - interval '1 hour'",
            "what a user wished to be deleted is surely gone",
        ),
    ],
)
async def test_the_audit_finds_an_account_that_was_not_wholly_deleted(
    client: Client, engine: Engine, settings: Settings, harm: str, says: str
) -> None:
    storage = whole(engine, settings, (await client.submit()).json())
    await leave(client)
    delete_loose_objects(sessionmaker(engine), storage)
    assert audit(engine, storage).proved
    with engine.begin() as connection:
        for statement in harm.split(";"):
            connection.execute(text(statement))
    assert [finding.says for finding in audit(engine, storage).findings if not finding.proved] == [says]


async def test_everything_about_a_user_comes_in_one_archive(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    version = (await client.get("/consent")).json()["version"]
    job = (await client.submit(role="GROOM", **{"Idempotency-Key": "mine"})).json()
    whole(engine, settings, job, stored=2)
    answer = await client.http.post(
        "/jobs",
        files={"image": ("me.jpg", pictures.one_face(), "image/jpeg")},
        data={"style": "MODERN", "consent": version},
        headers={**client.headers, "Accept-Language": "en"},
    )
    second = answer.json()
    await client.http.delete(f"/jobs/{second['id']}", headers=client.headers)
    await stranger.submit()

    exported = await client.get("/me/export")
    assert exported.headers["content-type"] == "application/zip"
    with ZipFile(BytesIO(exported.content)) as archive:
        assert archive.testzip() is None
        names = [f"{job['id']}/{name}" for name in ("portrait.jpg", "photo-1.jpg", "photo-2.jpg")]
        assert archive.namelist() == ["account.json", *names]
        assert archive.read(names[1]) == pictures.one_face()
        about: dict[str, Any] = json.loads(archive.read("account.json"))
    assert about["user"]["email"] == client.email
    assert [entry["kind"] for entry in about["ledger"]] == ["SIGNUP", "CHARGE", "REFUND", "CHARGE", "REFUND"]
    first, other = about["jobs"]
    assert (first["id"], first["role"], first["idempotency_key"]) == (job["id"], "GROOM", "mine")
    assert [photo["status"] for photo in first["photos"]] == ["STORED", "STORED", "FAILED", "FAILED"]
    assert first["events"][0]["name"] == "job.accepted"
    assert first["consent"] is None
    assert (other["consent"]["version"], other["consent"]["language"]) == (version, "en")
    (record,) = about["deletions"]
    assert (record["kind"], record["job_id"]) == ("JOB", second["id"])
    assert stranger.email not in json.dumps(about)


async def test_an_export_without_the_storage_is_refused_and_without_pictures_is_small(
    client: Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZipFile(BytesIO((await client.get("/me/export")).content)) as archive:
        assert archive.namelist() == ["account.json"]
    job = (await client.submit()).json()
    finish(engine, settings, job)
    parts: Parts = application(client.http).state.parts
    storage = DiskStorage(settings.data_dir / "objects")
    storage.delete([info.key for info in storage.list("photos/")])
    with ZipFile(BytesIO((await client.get("/me/export")).content)) as archive:
        assert archive.namelist() == ["account.json", f"{job['id']}/portrait.jpg"]

    def away(key: str) -> None:
        from shared.errors import StorageUnavailable

        raise StorageUnavailable(retry_after_seconds=5)

    monkeypatch.setattr(parts.storage, "get", away)
    refused(await client.get("/me/export"), 503, "storage_unavailable")
