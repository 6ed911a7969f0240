"""The three routes of the product's first plan, with its bodies and its words."""

import asyncio
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text

from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, finish, serve
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


async def generate(client: Client, **headers: str) -> httpx.Response:
    files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
    return await client.http.post(
        "/api/ai/generate", files=files, data={"style": "CLASSIC"}, headers={**client.headers, **headers}
    )


async def begun(client: Client) -> dict[str, Any]:
    """The job of a submission that is under way, once it has been accepted."""

    async def jobs() -> list[dict[str, Any]]:
        return list((await client.get("/jobs")).json()["jobs"])

    return (await until(jobs))[0]


async def test_who_waits_for_the_photos_holds_no_picture_in_memory(client: Client) -> None:
    form = httpx.Request(
        "POST",
        "http://127.0.0.1:8000/api/ai/generate",
        files={"image": ("me.jpg", pictures.nearly_ten_megabytes(), "image/jpeg")},
        data={"style": "CLASSIC"},
        headers=client.headers,
    )
    await client.balance()  # what is built at first sight is built
    tracemalloc.start()
    waiting = asyncio.create_task(client.http.send(form))
    await begun(client)
    try:
        await until(lambda: tracemalloc.get_traced_memory()[0] < 5_000_000)
    finally:
        tracemalloc.stop()
    assert not waiting.done()
    waiting.cancel()


async def test_generate_waits_for_the_photos(client: Client, engine: Engine, settings: Settings) -> None:
    waiting = asyncio.create_task(generate(client))
    job = await begun(client)
    finish(engine, settings, job)
    answer = (await waiting).json()
    assert (answer["success"], answer["data"]["id"], answer["data"]["remainingCredits"]) == (True, job["id"], 1)
    assert len(answer["data"]["generatedUrls"]) == 4


async def test_generate_that_fails_says_so(client: Client, engine: Engine, settings: Settings) -> None:
    waiting = asyncio.create_task(generate(client))
    job = await begun(client)
    finish(engine, settings, job, stored=0)
    answer = await waiting
    assert answer.status_code == 500
    assert answer.json() == {"error": "AI 생성 중 오류가 발생했습니다", "generationId": job["id"]}


async def test_generate_never_calls_half_a_job_a_success(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.plan.WAIT_SECONDS", 0.1)
    answer = await generate(client)
    assert answer.status_code == 504
    told = answer.json()
    assert set(told) == {"error", "generationId"}
    history = (await client.get("/api/ai/generations")).json()["data"]
    assert [(row["id"], row["status"]) for row in history] == [(told["generationId"], "QUEUED")]


async def test_addresses_are_ours_whatever_the_host_header_says(client: Client, settings: Settings) -> None:
    await client.submit()
    row = (await client.get("/api/ai/generations", Host="evil.example")).json()["data"][0]
    assert row["originalUrl"].startswith(f"{settings.public_url}/media/portraits/")


async def test_being_told_to_come_back_includes_when(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        limited = settings.model_copy(update={"uploads_per_window": 1})
        client = Client(await serve(stack, limited), limited)
        await client.submit(b"not an image")
        answer = await generate(client)
    assert (answer.status_code, answer.json()) == (429, {"error": "Rate limit exceeded"})
    assert 0 < int(answer.headers["retry-after"]) <= 600
