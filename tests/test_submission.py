"""Submitting a job: what is accepted, what is refused, and what either costs."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from api import submission
from api.errors import PROBLEMS
from api.portrait import Portrait
from api.submission import Submitter
from api.upload import Submission
from shared.disk_storage import DiskStorage
from shared.errors import FaceCheckUnavailable, Refusal, StorageUnavailable
from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, application, hanging_server, refused, serve
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


async def test_a_form_of_another_kind_is_not_even_read(client: Client) -> None:
    headers = {**client.headers, "Content-Type": "application/x-www-form-urlencoded"}
    began = time.thread_time()
    answer = await client.http.post("/jobs", content=b"&" * 10_000_000, headers=headers)
    assert time.thread_time() - began < 1, "nobody else is served meanwhile"
    refused(answer, 400, "missing_field")


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


@pytest.mark.parametrize(
    "lacking", [{"signup_credits": 1}, {"submissions_per_window": 1}], ids=["the last credit", "the last place"]
)
async def test_a_request_repeated_while_its_first_is_in_work_gives_its_job(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, lacking: dict[str, int]
) -> None:
    """A client that heard nothing sends it again; the first is accepted while the second is being decoded."""
    async with AsyncExitStack() as stack:
        scarce = settings.model_copy(update=lacking)
        client = Client(await serve(stack, scarce), scarce)
        decode = Submitter._decode
        firsts: list[httpx.Response] = []

        async def slow(self: Submitter, image: bytes) -> Portrait:
            monkeypatch.setattr(Submitter, "_decode", decode)
            firsts.append(await client.submit(**{"Idempotency-Key": "k"}))
            return await decode(self, image)

        monkeypatch.setattr(Submitter, "_decode", slow)
        again = await client.submit(**{"Idempotency-Key": "k"})
        assert [first.status_code for first in firsts] == [202]
        assert again.status_code == 200, again.text
        assert again.json()["id"] == firsts[0].json()["id"]
        assert (await client.submit()).status_code in (402, 429), "there was one only"


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


async def test_of_one_user_only_so_many_are_received_at_once(client: Client, stranger: Client) -> None:
    """Each is held in memory, whatever becomes of it."""
    go_on = asyncio.Event()

    async def send(user: Client) -> httpx.Response:
        async def slowly() -> AsyncIterator[bytes]:
            yield b'--y\r\nContent-Disposition: form-data; name="image"; filename="me.jpg"\r\n\r\nnot an image'
            await go_on.wait()
            yield b'\r\n--y\r\nContent-Disposition: form-data; name="style"\r\n\r\nCLASSIC\r\n--y--\r\n'

        headers = {**user.headers, "Content-Type": "multipart/form-data; boundary=y"}
        return await user.http.post("/jobs", content=slowly(), headers=headers)

    sent = [asyncio.create_task(send(client)) for _ in range(13)]
    await until(lambda: sum(task.done() for task in sent) == 3)
    for task in sent:
        if task.done():
            assert int(task.result().headers["retry-after"]) > 0
            refused(task.result(), 429, "rate_limited")
    sent.append(asyncio.create_task(send(stranger)))
    received = application(client.http).state.parts.uploads._running
    await until(lambda: sum(received.values()) == 11)
    go_on.set()
    codes = [(await task).json()["code"] for task in sent]
    assert sorted(codes) == ["invalid_image"] * 11 + ["rate_limited"] * 3
    assert (await client.submit()).status_code == 202, "those that ended make room"


async def test_of_many_at_once_no_more_pass_than_the_window_has_room_for(client: Client, engine: Engine) -> None:
    await client.get("/me")
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = 10"))
    answers = await asyncio.gather(*(client.submit() for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 3
    assert await client.balance() == 5
    with engine.connect() as connection:
        due = connection.execute(text("SELECT count(*) FROM loose_objects WHERE delete_after <= now()")).scalar_one()
    assert due <= 3, "portraits of those that were refused late are let go"
    portraits = len(list(DiskStorage(client.settings.data_dir / "objects").list("portraits")))
    assert portraits == 5 + due


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hanging"])
async def test_without_redis_a_submission_is_still_accepted_quickly(settings: Settings, hangs: bool) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(hanging_server()) if hangs else "127.0.0.1:1"
        alone = settings.model_copy(update={"redis_url": f"redis://{address}/0"})
        client = Client(await serve(stack, alone), alone)
        began = time.monotonic()
        answer = await client.submit()
        assert answer.status_code == 202, answer.text
        assert time.monotonic() - began < 3
        assert await client.balance() == 1
        assert (await client.http.get("/readyz")).json() == {"database": True, "redis": False}


async def test_ten_megabytes_are_hashed_beside_the_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noting(given: Submission) -> str:
        threads.append(threading.current_thread())
        return fingerprint(given)

    fingerprint = submission._fingerprint
    monkeypatch.setattr(submission, "_fingerprint", noting)
    assert (await client.submit()).status_code == 202
    assert threads
    assert threading.main_thread() not in threads


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

    with monkeypatch.context() as outage:
        outage.setattr(broken, away)
        for _ in range(6):
            answer = await client.submit()
            refused(answer, 503, code)
            assert answer.headers["retry-after"] == "7"
    assert await client.balance() == 2
    answer = await client.submit()
    assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (202, "4"), "an outage uses nothing up"
