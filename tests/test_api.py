"""The HTTP contract, on the real application over a real PostgreSQL and Redis; no worker runs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from api.auth import DEVELOPMENT_SECRET, development_token
from api.errors import PROBLEMS
from api.main import create_app
from shared import photos
from shared.attempts import AttemptEnd
from shared.disk_storage import DiskStorage
from shared.errors import FaceCheckUnavailable, Refusal, StorageUnavailable
from shared.models import AttemptOutcome, PhotoStatus
from shared.photos import StoredFile
from shared.settings import Settings
from tests import photos as pictures

pytestmark = pytest.mark.anyio


@dataclass
class Client:
    """One user of one application."""

    http: httpx.AsyncClient
    settings: Settings
    email: str = field(default_factory=lambda: f"{uuid4().hex}@example.com")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {development_token(self.settings, self.email)}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={**self.headers, **headers})

    async def submit(
        self, image: bytes | None = None, style: str | None = "CLASSIC", role: str | None = None, **headers: str
    ) -> httpx.Response:
        files = {"image": ("me.jpg", pictures.one_face() if image is None else image, "image/jpeg")}
        data = {name: value for name, value in {"style": style, "role": role}.items() if value is not None}
        return await self.http.post("/jobs", files=files, data=data, headers={**self.headers, **headers})

    async def balance(self) -> int:
        return int((await self.get("/me")).json()["credits"])


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        yield await serve(stack, settings)


async def serve(stack: AsyncExitStack, settings: Settings) -> httpx.AsyncClient:
    app = create_app(settings)
    await stack.enter_async_context(app.router.lifespan_context(app))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000"))


@pytest.fixture
def client(http: httpx.AsyncClient, settings: Settings) -> Client:
    return Client(http, settings)


@pytest.fixture
def stranger(http: httpx.AsyncClient, settings: Settings) -> Client:
    return Client(http, settings)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"], body["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    return body


def finish(engine: Engine, settings: Settings, job: dict[str, Any], stored: int = 4) -> None:
    """What workers would do: store the first photos, give up the rest."""
    storage = DiskStorage(settings.data_dir / "objects")
    for photo in job["photos"]:
        with Session(engine) as session, session.begin():
            claim = photos.claim(session, photo["id"], PhotoStatus.PENDING, 60)
            assert claim is not None
            attempt = photos.open_attempt(session, claim, "preview", "preview")
            if photo["slot"] < stored:
                key = photos.photo_key(claim.job_id, claim.slot)
                storage.put(key, pictures.one_face(), "image/jpeg")
                file = StoredFile(key, 512, 512, 1000, "0" * 64)
                photos.store(session, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), file)
            else:
                photos.give_up(session, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, "moderated"))


# --- Submitting


async def test_a_submission_is_accepted_and_takes_one_credit(client: Client, engine: Engine) -> None:
    answer = await client.submit(style="MODERN", role="BRIDE")
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == ("5", "4")
    assert (job["status"], job["style"], job["role"], job["error"]) == ("QUEUED", "MODERN", "BRIDE", None)
    assert job["progress"] == {"done": 0, "total": 4}
    assert [(photo["slot"], photo["status"], photo["url"]) for photo in job["photos"]] == [
        (slot, "PENDING", None) for slot in range(4)
    ]
    assert job["remaining_credits"] == await client.balance() == 1
    assert datetime.fromisoformat(job["created_at"]).utcoffset() == timedelta(0)
    credits = (await client.get("/me/credits")).json()
    assert [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in credits["entries"]] == [
        ("CHARGE", -1, 1),
        ("SIGNUP", 2, 2),
    ]
    portrait = await client.http.get(job["portrait_url"])
    assert portrait.headers["content-type"] == "image/jpeg"
    assert (await client.get(f"/jobs/{job['id']}")).json() == {k: v for k, v in job.items() if k != "remaining_credits"}


@pytest.mark.parametrize(
    ("image", "style", "role", "status", "code"),
    [
        (b"", "CLASSIC", None, 400, "missing_field"),
        (None, None, None, 400, "missing_field"),
        (None, "BAROQUE", None, 400, "unknown_style"),
        (None, "CLASSIC", "DOG", 400, "unknown_role"),
        (b"not an image", "CLASSIC", None, 400, "invalid_image"),
        (pictures.no_face, "CLASSIC", None, 400, "no_face"),
        (pictures.group, "CLASSIC", None, 400, "multiple_faces"),
        (pictures.tiny_face, "CLASSIC", None, 400, "face_too_small"),
        (pictures.eleven_megabytes, "CLASSIC", None, 400, "file_too_large"),
    ],
)
async def test_a_submission_that_is_refused_costs_nothing(
    client: Client, engine: Engine, settings: Settings, image: Any, style: str, role: str, status: int, code: str
) -> None:
    body = image() if callable(image) else image
    for language in ("ko", "en"):
        answer = refused(await client.submit(body, style, role, **{"Accept-Language": language}), status, code)
        sentence = getattr(PROBLEMS[code], language)
        assert answer["detail"] == sentence.format_map(answer)
    assert await client.balance() == 2
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    assert list(DiskStorage(settings.data_dir / "objects").list("")) == []
    assert (await client.submit()).headers["ratelimit-remaining"] == "4", "refusals use nothing up"


async def test_the_plans_sentences_are_kept_word_for_word(client: Client) -> None:
    assert refused(await client.submit(pictures.no_face()), 400, "no_face")["detail"] == "얼굴이 감지되지 않았습니다"
    answer = refused(await client.submit(pictures.group()), 400, "multiple_faces")
    assert answer["detail"] == "1명의 얼굴만 업로드해주세요"


async def test_without_credit_nothing_starts(client: Client, engine: Engine) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 0"))
    answer = refused(await client.submit(), 402, "insufficient_credits")
    assert answer["balance"] == 0


async def test_a_request_without_a_picture_or_a_form_is_told_so(client: Client) -> None:
    answer = await client.http.post("/jobs", data={"style": "CLASSIC"}, headers=client.headers)
    refused(answer, 400, "missing_field")
    answer = await client.http.post("/jobs", json={"style": "CLASSIC"}, headers=client.headers)
    refused(answer, 400, "missing_field")
    headers = {**client.headers, "Content-Type": "multipart/form-data; boundary=x"}
    refused(await client.http.post("/jobs", content=b"--y\r\nbroken", headers=headers), 400, "invalid_request")
    headers = {**client.headers, "Content-Type": "multipart/form-data"}
    refused(await client.http.post("/jobs", content=b"--y\r\nbroken", headers=headers), 400, "invalid_request")


async def test_phone_pictures_are_taken(client: Client) -> None:
    assert (await client.submit(pictures.heic())).status_code == 202
    assert (await client.submit(pictures.rotated_with_gps())).status_code == 202


async def test_the_same_key_and_request_give_the_same_job(client: Client) -> None:
    first = await client.submit(**{"Idempotency-Key": "k"})
    again = await client.submit(**{"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert await client.balance() == 1
    assert again.headers["ratelimit-remaining"] == "4", "a replay uses nothing up"
    refused(await client.submit(style="MODERN", **{"Idempotency-Key": "k"}), 409, "idempotency_conflict")
    refused(await client.submit(**{"Idempotency-Key": "x" * 256}), 400, "invalid_request")
    assert await client.balance() == 1


async def test_another_users_key_is_not_mine(client: Client, stranger: Client) -> None:
    mine = await client.submit(**{"Idempotency-Key": "k"})
    theirs = await stranger.submit(**{"Idempotency-Key": "k"})
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]


async def test_the_sixth_submission_in_ten_minutes_waits(client: Client, engine: Engine) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
        connection.execute(text("UPDATE ledger_entries SET amount = 10, balance_after = 10"))
    assert [(await client.submit()).status_code for _ in range(5)] == [202] * 5
    answer = await client.submit()
    told = refused(answer, 429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= 600
    assert told["retry_after_seconds"] == int(answer.headers["retry-after"])
    assert await client.balance() == 5


async def test_uploads_of_any_kind_are_limited_before_they_are_decoded(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        limited = settings.model_copy(update={"uploads_per_window": 2})
        client = Client(await serve(stack, limited), limited)
        codes = [(await client.submit(b"not an image")).json()["code"] for _ in range(3)]
    assert codes == ["invalid_image", "invalid_image", "rate_limited"]


async def test_without_redis_a_submission_is_still_accepted_quickly(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
        client = Client(await serve(stack, alone), alone)
        began = datetime.now(UTC)
        answer = await client.submit()
        assert answer.status_code == 202, answer.text
        assert datetime.now(UTC) - began < timedelta(seconds=3)
        assert await client.balance() == 1
        assert (await client.http.get("/readyz")).json() == {"database": True, "redis": False}


@pytest.mark.parametrize(
    ("broken", "fault", "code"),
    [
        ("api.local_faces.LocalFaceChecker.check", FaceCheckUnavailable, "face_check_unavailable"),
        ("shared.disk_storage.DiskStorage.put", StorageUnavailable, "storage_unavailable"),
    ],
)
async def test_a_part_that_is_away_is_our_fault_and_costs_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, broken: str, fault: type[Refusal], code: str
) -> None:
    def away(*_: object) -> None:
        raise fault(retry_after_seconds=7)

    monkeypatch.setattr(broken, away)
    answer = await client.submit()
    refused(answer, 503, code)
    assert answer.headers["retry-after"] == "7"
    assert await client.balance() == 2


# --- Following, listing, choosing


async def test_a_finished_job_shows_its_photos(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job)
    job = (await client.get(f"/jobs/{job['id']}")).json()
    assert (job["status"], job["progress"]["done"], job["error"]) == ("COMPLETED", 4, None)
    assert job["completed_at"] is not None
    for photo in job["photos"]:
        shown = await client.http.get(photo["url"])
        assert (shown.status_code, shown.content) == (200, pictures.one_face())
        assert "attachment" not in shown.headers.get("content-disposition", "")
    saved = await client.http.get(job["photos"][0]["url"], params={"download": "1"})
    assert saved.headers["content-disposition"] == 'attachment; filename="cuggu-1.jpg"'
    assert "cost" not in str(job)


@pytest.mark.parametrize(("stored", "status"), [(0, "FAILED"), (2, "PARTIAL")])
async def test_a_job_that_failed_says_why_and_that_the_credit_is_back(
    client: Client, engine: Engine, settings: Settings, stored: int, status: str
) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job, stored)
    job = (await client.get(f"/jobs/{job['id']}", **{"Accept-Language": "en"})).json()
    assert (job["status"], job["progress"]["done"]) == (status, stored)
    assert (job["error"]["code"], job["error"]["refunded"]) == ("moderated", True)
    assert job["error"]["detail"].endswith("Your credit has been returned")
    assert await client.balance() == 2


async def test_an_unchanged_job_is_not_sent_again(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    first = await client.get(f"/jobs/{job['id']}")
    same = await client.get(f"/jobs/{job['id']}", **{"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    finish(engine, settings, job)
    changed = await client.get(f"/jobs/{job['id']}", **{"If-None-Match": first.headers["etag"]})
    assert changed.json()["status"] == "COMPLETED"


async def test_history_is_paged_newest_first(client: Client, stranger: Client, engine: Engine) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
    submitted = [(await client.submit()).json()["id"] for _ in range(5)]
    await stranger.submit()
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await client.get(f"/jobs?limit=2{cursor}")).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert page["remaining_credits"] == 5
    assert seen == submitted[::-1]
    refused(await client.get("/jobs?cursor=nonsense"), 400, "invalid_request")
    refused(await client.get("/jobs?limit=0"), 400, "invalid_request")


async def test_only_ones_own_stored_photo_can_be_chosen(
    client: Client, stranger: Client, engine: Engine, settings: Settings
) -> None:
    job = (await client.submit()).json()
    path, photo_id = f"/jobs/{job['id']}/selection", job["photos"][2]["id"]
    early = await client.http.put(path, json={"photo_id": photo_id}, headers=client.headers)
    refused(early, 409, "photo_not_stored")
    finish(engine, settings, job)
    chosen = await client.http.put(path, json={"photo_id": photo_id}, headers=client.headers)
    assert chosen.json()["selected_photo_id"] == photo_id
    refused(await client.http.put(path, json={"photo_id": str(uuid4())}, headers=client.headers), 404, "not_found")
    refused(await client.http.put(path, json={"photo_id": photo_id}, headers=stranger.headers), 404, "not_found")
    refused(await client.http.put(path, json={}, headers=client.headers), 400, "invalid_request")


async def test_canceling_gives_the_credit_back_once(client: Client, stranger: Client) -> None:
    job = (await client.submit()).json()
    path = f"/jobs/{job['id']}/cancel"
    refused(await client.http.post(path, headers=stranger.headers), 404, "not_found")
    canceled = (await client.http.post(path, headers=client.headers)).json()
    assert (canceled["status"], canceled["error"]["code"]) == ("CANCELED", "canceled")
    refused(await client.http.post(path, headers=client.headers), 409, "job_ended")
    assert await client.balance() == 2


async def test_a_strangers_job_looks_like_none(client: Client, stranger: Client) -> None:
    job = (await client.submit()).json()
    refused(await stranger.get(f"/jobs/{job['id']}"), 404, "not_found")
    refused(await stranger.get(f"/jobs/{uuid4()}"), 404, "not_found")
    assert (await stranger.get("/jobs")).json()["jobs"] == []
    refused(await stranger.get("/jobs/not-an-id"), 400, "invalid_request")
    refused(await client.http.get(f"/media/{uuid4()}"), 404, "not_found")
    refused(await client.http.get(f"/media/portraits/{uuid4()}"), 404, "not_found")


async def test_the_catalogue_and_the_docs_are_there(client: Client) -> None:
    styles = (await client.http.get("/styles")).json()
    assert [style["key"] for style in styles] == ["CLASSIC", "MODERN", "VINTAGE", "ROMANTIC", "CINEMATIC"]
    assert all(style["label_ko"] and style["label_en"] for style in styles)
    assert "multipart/form-data" in str((await client.http.get("/openapi.json")).json()["paths"]["/jobs"]["post"])
    assert (await client.http.get("/healthz")).text == "ok"
    assert (await client.http.get("/readyz")).json() == {"database": True, "redis": True}
    refused(await client.http.get("/nowhere"), 404, "not_found")


# --- Who is it


def token(settings: Settings, *, key: str = DEVELOPMENT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    good = {
        "email": "someone@example.com",
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "exp": datetime.now(UTC) + timedelta(hours=1),
    }
    return jwt.encode({name: value for name, value in {**good, **claims}.items() if value is not None}, key, algorithm)


async def test_only_valid_tokens_are_believed(http: httpx.AsyncClient, settings: Settings) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    bad = [
        None,
        "",
        "Basic eDp5",
        "Bearer",
        "Bearer nonsense",
        *(
            f"Bearer {wrong}"
            for wrong in (
                token(settings, key="another-secret-of-thirty-two-bytes-or-more"),
                token(settings, key="", algorithm="none"),
                token(settings, algorithm="HS512"),
                token(settings, iss="somebody-else"),
                token(settings, aud="somewhere-else"),
                token(settings, exp=past),
                token(settings, exp=None),
                token(settings, email=None),
                token(settings, email="no address"),
            )
        ),
    ]
    for value in bad:
        answer = await http.get("/me", headers={} if value is None else {"Authorization": value})
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    good = await http.get("/me", headers={"Authorization": f"Bearer {token(settings, email='Some.One@Example.com')}"})
    assert good.json()["email"] == "some.one@example.com"


async def test_development_tokens_are_worth_nothing_in_production(settings: Settings) -> None:
    production = Settings(
        _env_file=None,
        **{
            **settings.model_dump(),
            "auth_mode": "jwt",
            "jwt_secret": "a-production-secret-of-thirty-two-bytes",
        },
    )
    async with AsyncExitStack() as stack:
        http = await serve(stack, production)
        refused(await http.get("/me", headers={"Authorization": f"Bearer {token(settings)}"}), 401, "unauthorized")
        good = token(settings, key="a-production-secret-of-thirty-two-bytes")
        assert (await http.get("/me", headers={"Authorization": f"Bearer {good}"})).status_code == 200


async def test_the_form_is_not_read_before_it_is_known_who_sends_it(http: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("somebody read the body")
        yield b""

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(await http.post("/jobs", content=body(), headers=headers), 401, "unauthorized")


# --- The plan's own routes


async def test_a_page_written_for_the_plan_works(client: Client, engine: Engine, settings: Settings) -> None:
    job = (await client.submit()).json()
    finish(engine, settings, job)
    history = (await client.get("/api/ai/generations")).json()
    assert (history["success"], history["remainingCredits"], len(history["data"])) == (True, 1, 1)
    row = history["data"][0]
    assert (row["id"], row["style"], row["status"], row["creditsUsed"]) == (job["id"], "CLASSIC", "COMPLETED", 1)
    assert len(row["generatedUrls"]) == 4
    assert row["selectedUrl"] is None
    assert (await client.http.get(row["generatedUrls"][0])).content == pictures.one_face()
    selection = {"generationId": row["id"], "selectedUrl": row["generatedUrls"][3]}
    answer = await client.http.post("/api/ai/select", json=selection, headers=client.headers)
    assert answer.json() == {"success": True, "data": {"selectedUrl": row["generatedUrls"][3]}}
    assert (await client.get("/api/ai/generations")).json()["data"][0]["selectedUrl"] == row["generatedUrls"][3]


async def test_the_plans_routes_refuse_in_the_plans_words(client: Client, stranger: Client, engine: Engine) -> None:
    async def generate(image: bytes, style: str = "CLASSIC") -> tuple[int, dict[str, Any]]:
        files = {"image": ("me.jpg", image, "image/jpeg")}
        answer = await client.http.post("/api/ai/generate", files=files, data={"style": style}, headers=client.headers)
        return answer.status_code, answer.json()

    assert (await client.http.post("/api/ai/generate")).json() == {"error": "Unauthorized"}
    assert await generate(pictures.no_face()) == (400, {"error": "얼굴이 감지되지 않았습니다"})
    assert await generate(pictures.group()) == (400, {"error": "1명의 얼굴만 업로드해주세요"})
    assert await generate(b"text") == (400, {"error": "Invalid file type"})
    assert await generate(b"") == (400, {"error": "Image and style are required"})
    assert await generate(pictures.eleven_megabytes()) == (400, {"error": "File too large (max 10MB)"})
    selection = {"generationId": str(uuid4()), "selectedUrl": f"http://127.0.0.1:8000/media/{uuid4()}"}
    answer = await client.http.post("/api/ai/select", json=selection, headers=client.headers)
    assert (answer.status_code, answer.json()) == (404, {"error": "Generation not found"})
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 0"))
    assert await generate(pictures.one_face()) == (402, {"error": "Insufficient credits", "balance": 0})
