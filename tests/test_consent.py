"""What a user agrees to: the text, its version, and what becomes of a user's word."""

from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from shared.consent import consent_text
from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, refused, serve

pytestmark = pytest.mark.anyio


async def submit(client: Client, consent: str | None, language: str = "ko", **headers: str) -> httpx.Response:
    data = {"style": "CLASSIC"} | ({} if consent is None else {"consent": consent})
    files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
    sent = {**client.headers, "Accept-Language": language, **headers}
    return await client.http.post("/jobs", files=files, data=data, headers=sent)


def written(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT consent_version, consent_language, consented_at = created_at FROM jobs ORDER BY created_at")
        )
        return [tuple(row) for row in rows]


async def test_the_text_is_told_in_both_languages_with_its_times(http: httpx.AsyncClient) -> None:
    ko = (await http.get("/consent")).json()
    en = (await http.get("/consent", headers={"Accept-Language": "en"})).json()
    assert (ko["language"], en["language"], ko["required"]) == ("ko", "en", False)
    assert ko["version"] == en["version"]
    assert "1시간" in ko["text"]
    assert "30일" in ko["text"]
    assert "1 hour after" in en["text"]
    assert "30 days after" in en["text"]


async def test_a_users_word_is_written_down_with_the_job(client: Client, engine: Engine) -> None:
    version = (await client.get("/consent")).json()["version"]
    answer = await submit(client, version, "en-GB")
    assert (answer.status_code, answer.json()["consent_version"]) == (202, version)
    assert (await submit(client, None)).json()["consent_version"] is None
    assert written(engine) == [(version, "en", True), (None, None, None)]


async def test_another_version_than_todays_is_no_consent(client: Client, engine: Engine) -> None:
    current = (await client.get("/consent")).json()["version"]
    told = refused(await submit(client, "2020-01-01.00000000"), 400, "consent_required")
    assert (told["version"], told["detail"]) == (current, "얼굴 사진 이용에 대한 동의가 필요합니다")
    assert written(engine) == []
    assert await client.balance() == 2


async def test_where_it_is_required_nothing_is_taken_without_it(settings: Settings, engine: Engine) -> None:
    async with AsyncExitStack() as stack:
        strict = settings.model_copy(update={"consent_required": True})
        client = Client(await serve(stack, strict), strict)
        assert (await client.get("/consent")).json()["required"] is True
        refused(await submit(client, None), 400, "consent_required")
        version = consent_text(strict).version
        key = {"Idempotency-Key": "once"}
        first = await submit(client, version, **key)
        assert first.status_code == 202
        again = await submit(client, None, **key)  # the same request, whatever it says of consent
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert written(engine) == [(version, "ko", True)]


def test_the_version_changes_with_every_time_that_the_text_names(offline_settings: Settings) -> None:
    def version(**changes: float) -> str:
        return consent_text(offline_settings.model_copy(update=changes)).version

    versions = {version(), version(photo_retention_days=7), version(portrait_retention_seconds=60)}
    assert len(versions) == 3
    assert version() == version()
