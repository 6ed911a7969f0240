"""The three routes of the product's first plan, with its bodies and its words."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, finish

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
