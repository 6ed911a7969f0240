"""Nothing that must stay secret is written down anywhere: known values go through the real system, whose logs,
messages and keys are then searched for them. And what must be found is: the ids that tie a job's lines together.
"""

import base64
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import jwt
import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from cli.vendors import BUCKET, Vendors, doubled_vendors
from shared.settings import Settings
from tests import photos as pictures
from tests.doubles.receiver import receiver
from tests.stack import RunningStack
from tests.test_end_to_end import QUICK, Person, dial
from tests.waiting import wait_until
from tests.watched_redis import watched_redis

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]
EMAIL = "canary.of.the.mine@example.com"


@pytest.fixture
def vendors(tmp_path: Path) -> Iterator[Vendors]:
    with doubled_vendors(tmp_path) as vendors:
        yield vendors


def whsec() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


class Canaries:
    """Values by what they are, each in every form in which it could be written."""

    def __init__(self) -> None:
        self._forms: dict[str, list[bytes]] = defaultdict(list)

    def word(self, what: str, value: str) -> str:
        self._forms[what].append(value.encode())
        return value

    def picture(self, what: str, body: bytes) -> bytes:
        """Pieces of it as they are, printed, in hexadecimal and in base64."""
        for share in (0.3, 0.6):
            start = int(len(body) * share) // 3 * 3
            piece = body[start : start + 24]
            self._forms[what] += [piece, repr(piece)[2:-1].encode(), piece.hex().encode(), base64.b64encode(piece)]
        return body

    def found_in(self, text: bytes) -> list[str]:
        return sorted(what for what, forms in self._forms.items() if any(form in text for form in forms))

    def __len__(self) -> int:
        return len(self._forms)


def test_the_search_finds_what_is_there() -> None:
    canaries = Canaries()
    body = canaries.picture("portrait", pictures.one_face())
    canaries.word("token", "r8_unspeakable")
    for text in (body, repr(body).encode(), body.hex().encode(), base64.b64encode(body), b'{"x": "r8_unspeakable"}'):
        assert len(canaries.found_in(text)) == 1, text[:60]
    assert canaries.found_in(b"nothing of it") == []


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_no_secret_address_or_picture_is_written_down_and_every_line_of_a_job_names_its_request(
    running_stack: Callable[..., RunningStack],
    settings: Settings,
    vendors: Vendors,
    postgres_admin: psycopg.Connection,
) -> None:
    canaries = Canaries()
    for name in ("AZURE_FACE_API_KEY", "AWS_SECRET_ACCESS_KEY", "REPLICATE_API_TOKEN"):
        canaries.word(name, vendors.environment[name])
    for [secret] in [json.loads(vendors.environment["REPLICATE_WEBHOOK_SECRETS"])]:
        canaries.word("REPLICATE_WEBHOOK_SECRETS", secret.removeprefix("whsec_"))
    for name, address in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        canaries.word(name, str(make_url(address).password))
    site_secret, jwt_secret = whsec(), canaries.word("JWT_SECRET", secrets.token_hex(32))
    canaries.word("SITE_WEBHOOK_SECRETS", site_secret.removeprefix("whsec_"))
    canaries.word("e-mail", EMAIL)
    portrait = canaries.picture("upload", pictures.one_face())
    with receiver() as site, watched_redis(settings.redis_url) as messages:
        stack = running_stack(
            env={
                **vendors.environment,
                **QUICK,
                "LOG_LEVEL": "DEBUG",
                "LOG_FORMAT": "json",
                "AUTH_MODE": "jwt",
                "JWT_SECRET": jwt_secret,
                "SESSION_SECRET": canaries.word("SESSION_SECRET", secrets.token_hex(32)),
                "METRICS_TOKEN": canaries.word("METRICS_TOKEN", secrets.token_hex(16)),
                "SITE_WEBHOOK_URL": f"{site.url}/ends",
                "SITE_WEBHOOK_SECRETS": json.dumps([site_secret]),
                "SITE_WEBHOOK_PRIVATE_ADDRESSES": "true",
                "SIGNUP_CREDITS": "9",
                "PHOTO_ATTEMPTS_MAX": "2",
            }
        )
        person = Person(stack, settings)
        claims = {"email": EMAIL, "iss": settings.jwt_issuer, "aud": settings.jwt_audience}
        token = jwt.encode({**claims, "exp": datetime.now(UTC) + timedelta(hours=1)}, jwt_secret, "HS256")
        person.http.headers["Authorization"] = f"Bearer {canaries.word('bearer token', token)}"
        cookie = person.http.post("/session").raise_for_status().cookies
        for value in cookie.values():
            canaries.word("session cookie", value)

        # A job that goes well, and what is signed for its photos.
        accepted = person.submit(image=portrait)
        requests = {accepted.json()["id"]: accepted.headers["x-request-id"]}
        job = person.end(accepted.json()["id"])
        assert job["status"] == "COMPLETED"
        for photo in job["photos"]:
            signed = parse_qs(urlsplit(person.http.get(photo["url"]).headers["location"]).query)
            canaries.word("signed address", signed["X-Amz-Signature"][0])
        for prefix in ("portraits/", "photos/"):
            for entry in vendors.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
                body = vendors.s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
                canaries.picture(prefix, body)
        site.wait_for_posts(1, 60)

        # What is refused.
        forged = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": f"v1,{token}"}
        address = f"/webhooks/replicate?photo={uuid4()}"
        assert person.http.post(address, content=json.dumps(claims), headers=forged).status_code == 401
        foreign = canaries.word("foreign token", jwt.encode({**claims, "exp": 1}, "another" * 6, "HS256"))
        assert person.http.get("/me", headers={"Authorization": f"Bearer {foreign}"}).status_code == 401
        assert person.submit(image=canaries.picture("no picture", secrets.token_bytes(5000))).status_code == 400
        assert person.submit(image=canaries.picture("no face", pictures.no_face())).status_code == 400
        assert person.http.get("/metrics", headers={"Authorization": "Bearer x"}).status_code == 401

        # A provider that loses answers, answers nonsense and fails; a storage that is away.
        dial(
            vendors.replicate_url,
            faults={"create": ["drop_after", "500", "422", "not_json"], "get": ["html_502", "401"], "file": ["500"]},
            outcomes=["failed", "moderated"],
        )
        site.statuses += [500]
        accepted = person.submit(image=portrait)
        requests[accepted.json()["id"]] = accepted.headers["x-request-id"]
        assert person.end(accepted.json()["id"])["status"] in ("PARTIAL", "FAILED")
        stack.stop("worker")
        good = stack.env["S3_ENDPOINT_URL"]
        stack.change_env(S3_ENDPOINT_URL="http://127.0.0.1:1")
        stack.start("worker-2")
        accepted = person.submit(image=portrait)
        requests[accepted.json()["id"]] = accepted.headers["x-request-id"]
        person.http.delete(f"/jobs/{job['id']}").raise_for_status()
        wait_until(lambda: '"task.postponed"' in stack.logs("worker-2"), 60)
        stack.change_env(S3_ENDPOINT_URL=good)
        stack.start("worker")
        stack.stop("worker-2")

        # A table that is not there: what nobody expected, with its traceback, in both processes.
        database = make_url(settings.database_url).database
        with psycopg.connect(settings.database_url, autocommit=True) as rows:
            rows.execute("ALTER TABLE users RENAME TO users_away")
            assert person.http.get("/me").status_code == 500
            rows.execute("ALTER TABLE photos RENAME TO photos_away")
            wait_until(lambda: "UndefinedTable" in stack.logs("worker"), 60)
            rows.execute("ALTER TABLE photos_away RENAME TO photos")
            rows.execute("ALTER TABLE users_away RENAME TO users")
        # A database that lets nobody in, for a while: no step is lost, and so none is an error.
        erred = stack.logs("worker").count('"level": "error"')
        postgres_admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        postgres_admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
        assert person.http.get("/me").status_code == 503
        wait_until(lambda: '"task.postponed"' in stack.logs("worker"), 60)
        postgres_admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        assert stack.logs("worker").count('"level": "error"') == erred
        assert person.end(accepted.json()["id"])["status"] in ("COMPLETED", "PARTIAL", "FAILED")
        site.wait_for_posts(3, 60)

        with redis.Redis.from_url(settings.redis_url) as client:
            kept = b"\n".join(key + b" " + (client.dump(key) or b"") for key in client.scan_iter(count=1000))
        logs = {path.name: path.read_bytes() for path in (stack.data_dir / "logs").glob("*.log")}

    assert len(canaries) >= 16
    assert {"api.log", "worker.log", "worker-2.log", "beat.log"} <= logs.keys()
    written = {**logs, "commands to Redis": messages.text, "keys of Redis": kept}
    assert {name: found for name, text in written.items() if (found := canaries.found_in(text))} == {}
    # The search looked where things are: photos' ids are in the messages, and requests' and jobs' in the logs.
    assert job["photos"][0]["id"].encode() in messages.text
    assert b"start_photo" in messages.text

    lines = [line for name in ("worker.log", "worker-2.log") for line in lines_of(logs[name].decode())]
    of_jobs = [line for line in lines if line.get("job_id")]
    assert {(line["job_id"], line["request_id"]) for line in of_jobs} == set(requests.items())
    assert {"prediction.started", "photo.stored", "photo.retried", "provider.called", "delivery.taken"} <= {
        line["event"] for line in of_jobs
    }
    for line in lines:
        if line["event"] in ("provider.called", "prediction.started", "photo.stored", "create.answer_lost"):
            assert {"job_id", "photo_id", "attempt_id", "request_id"} <= line.keys(), line
    assert requests[job["id"]].encode() in logs["api.log"]
