"""The whole system, and a user who leaves: nothing personal remains in bucket, database, Redis or logs.

Real processes over an S3 that keeps versions. Of everything that leads to the user a note is taken before; then every
place is searched for it.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import uuid4

import boto3
import httpx
import psycopg
import pytest
import redis
from moto.server import ThreadedMotoServer
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.auth import development_token
from shared import jobs
from shared.audit import audit
from shared.s3_storage import S3Storage
from shared.settings import Settings
from tests import photos as pictures
from tests.rows import money_is_right, new_job
from tests.stack import RunningStack
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
REGION: Final = "ap-northeast-2"
NAME, EMAIL = "kim-jiwoo-1994", "kim-jiwoo-1994@example.com"
FILE_NAME, KEY = "jiwoo-passport-photo.jpg", "order-of-kim-jiwoo"
GONE_WITHIN_SECONDS = 60
PATIENCE_SECONDS = 90


@pytest.fixture
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket that keeps every version of everything."""

    def __init__(self, s3_url: str) -> None:
        self.name = f"photos-{uuid4()}"
        self.client = boto3.client(
            "s3", endpoint_url=s3_url, region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s"
        )
        self.client.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def everything(self) -> list[str]:
        """The key of each version and of each marker."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in (*page.get("Versions", []), *page.get("DeleteMarkers", []))]


class Person:
    def __init__(self, stack: RunningStack, settings: Settings, email: str) -> None:
        self.token = development_token(settings, email)
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False)

    def submit(self, key: str, style: str = "CLASSIC") -> dict[str, Any]:
        files = {"image": (FILE_NAME, pictures.one_face(), "image/jpeg")}
        form = {"style": style, "role": "BRIDE"}
        answer = self.http.post("/jobs", files=files, data=form, headers={"Idempotency-Key": key})
        return dict(answer.raise_for_status().json())

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/jobs/{job_id}").raise_for_status().json())


def rows_of(database_url: str) -> dict[str, str]:
    """Every table, with the text of all its rows."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        texts = {}
        for (name,) in names:
            rows = connection.execute(f'SELECT row_to_json(t)::text FROM "{name}" t').fetchall()  # type: ignore[arg-type]
            texts[name] = "\n".join(row[0] for row in rows)
        return texts


def redis_text(redis_url: str) -> str:
    """Every key and every value, serialised as the server itself stores them."""
    readers: dict[bytes, Callable[[redis.Redis, bytes], Any]] = {
        b"string": lambda client, key: client.get(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"set": lambda client, key: client.smembers(key),
        b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
        b"hash": lambda client, key: client.hgetall(key),
        b"stream": lambda client, key: client.xrange(key),
    }
    found = []
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            if kind != b"none":  # it has expired meanwhile
                found.append(f"{key!r}: {readers[kind](client, key)!r}")
    return "\n".join(found)


def log_text(stack: RunningStack) -> str:
    logs = sorted((stack.data_dir / "logs").glob("*.log"))
    assert len(logs) >= 3
    return "\n".join(log.read_text() for log in logs)


def hits(needles: dict[str, str], places: dict[str, str]) -> list[tuple[str, str]]:
    """(what, where) of everything that is still to be found."""
    return [(what, where) for what, needle in needles.items() for where, text in places.items() if needle in text]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_who_leaves_leaves_nothing_but_a_nameless_ledger(
    running_stack: Callable[..., RunningStack],
    settings: Settings,
    database_url: str,
    redis_url: str,
    engine: Engine,
    s3_url: str,
) -> None:
    bucket = Bucket(s3_url)
    storage = {
        "storage": "s3",
        "s3_bucket_name": bucket.name,
        "s3_endpoint_url": s3_url,
        "aws_access_key_id": "test-key",
        "aws_secret_access_key": "test-secret",
    }
    stack = running_stack(
        {
            **{name.upper(): value for name, value in storage.items()},
            "PREVIEW_SECONDS": "3",
            "FACE_VERDICT_SECONDS": "5",
            "LOG_LEVEL": "DEBUG",
            "SIGNUP_CREDITS": "4",
        }
    )
    s3 = S3Storage(Settings(_env_file=None, **(settings.model_dump() | storage)))
    leaving, staying = Person(stack, settings, EMAIL), Person(stack, settings, "somebody-else@example.com")
    user_id = leaving.http.get("/me").json()["id"]
    assert leaving.http.post("/session").status_code == 200
    cookie = leaving.http.cookies["cuggu_session"]
    leaving.http.cookies.clear()

    # A job that is done, one that failed (its time was over before any worker came), and another user's, who stays.
    done = leaving.submit(KEY)
    seen_in_redis = redis_text(redis_url)
    kept = staying.submit("another", "VINTAGE")
    failed = new_job(user_id, deadline_seconds=0)
    s3.put(jobs.portrait_key(failed.portrait_id), pictures.one_face(), "image/jpeg")
    with Session(engine) as session, session.begin():
        jobs.accept(session, failed)
    wait_until(lambda: leaving.job(str(failed.id))["status"] == "FAILED", PATIENCE_SECONDS)
    wait_until(lambda: leaving.job(done["id"])["status"] == "COMPLETED", PATIENCE_SECONDS)
    wait_until(lambda: staying.job(kept["id"])["status"] == "COMPLETED", PATIENCE_SECONDS)
    done = leaving.job(done["id"])
    leaving.http.put(f"/jobs/{done['id']}/selection", json={"photo_id": done["photos"][0]["id"]}).raise_for_status()

    # What leads to the user, as far as anybody could know it.
    portrait = httpx.get(f"{stack.api_url}{done['portrait_url']}", follow_redirects=True, trust_env=False)
    needles = {
        "address": EMAIL,
        "name": NAME,
        "file name": FILE_NAME,
        "idempotency key": KEY,
        "upload's hash": sha256(pictures.one_face()),
        "portrait's hash": sha256(portrait.content),
        "portrait's id": done["portrait_url"].rpartition("/")[2],
        "token": leaving.token,
        "cookie": cookie,
    }
    theirs = set(bucket.everything())
    with psycopg.connect(database_url) as connection:
        others = connection.execute(
            "SELECT object_key, thumbnail_key, sha256, 'portraits/' || portrait_id, request_fingerprint "
            "FROM photos p JOIN jobs j ON j.id = job_id WHERE user_id <> %s",
            (user_id,),
        ).fetchall()
        own = connection.execute(
            "SELECT sha256, request_fingerprint FROM photos p JOIN jobs j ON j.id = job_id WHERE user_id = %s",
            (user_id,),
        ).fetchall()
    shared = {value for row in others for value in row}
    needles |= {f"key {key}": key for key in theirs - shared}
    needles |= {f"hash {value}": value for row in own for value in row if value and value not in shared | {"f" * 64}}
    everywhere = {**rows_of(database_url), "redis": seen_in_redis}
    known = {what for what, _ in hits(needles, everywhere)}
    assert {"address", "idempotency key", "portrait's id", "portrait's hash"} <= known, "the search itself works"
    assert len([what for what in known if what.startswith("key photos/")]) == 4
    assert len([what for what in known if what.startswith("hash ")]) >= 2

    running = leaving.submit(f"{KEY}-2", "MODERN")
    needles["portrait of the running job"] = running["portrait_url"].rpartition("/")[2]
    wait_until(
        lambda: any(photo["status"] == "GENERATING" for photo in leaving.job(running["id"])["photos"]), PATIENCE_SECONDS
    )
    assert leaving.http.delete("/me", params={"confirm": user_id}).status_code == 204

    wait_until(lambda: not set(bucket.everything()) - shared, GONE_WITHIN_SECONDS)
    # The face verdicts' time must pass.
    wait_until(lambda: not hits(needles, {"redis": redis_text(redis_url)}), PATIENCE_SECONDS)

    places = {**rows_of(database_url), "redis": redis_text(redis_url), "logs": log_text(stack)}
    assert hits(needles, places) == []
    assert "job.accepted" in places["logs"]
    # The ledger is all there, under a name that says nothing.
    with psycopg.connect(database_url) as connection:
        entries = connection.execute(
            "SELECT kind, count(*) FROM ledger_entries WHERE user_id = %s GROUP BY 1", (user_id,)
        )
        assert dict(entries.fetchall()) == {"SIGNUP": 1, "CHARGE": 3, "REFUND": 2}
        (email,) = connection.execute("SELECT email FROM users WHERE id = %s", (user_id,)).fetchone() or ("",)
        assert email.startswith("deleted-")
        record = "SELECT kind, gone_at IS NOT NULL FROM deletions"
        wait_until(lambda: connection.execute(record).fetchall() == [("ACCOUNT", True)], PATIENCE_SECONDS)
    money_is_right(engine)
    # And who stays has lost nothing.
    assert staying.job(kept["id"])["status"] == "COMPLETED"
    assert all(photo["url"] for photo in staying.job(kept["id"])["photos"])
    assert audit(engine, s3).proved
