"""What holds for the whole HTTP side: its documents, its health, its errors."""

import pytest

from tests.api_client import Client, refused

pytestmark = pytest.mark.anyio


async def test_the_catalogue_and_the_docs_are_there(client: Client) -> None:
    styles = (await client.http.get("/styles")).json()
    assert [style["key"] for style in styles] == ["CLASSIC", "MODERN", "VINTAGE", "ROMANTIC", "CINEMATIC"]
    assert all(style["label_ko"] and style["label_en"] for style in styles)
    assert "multipart/form-data" in str((await client.http.get("/openapi.json")).json()["paths"]["/jobs"]["post"])
    assert (await client.http.get("/healthz")).text == "ok"
    assert (await client.http.get("/readyz")).json() == {"database": True, "redis": True}
    refused(await client.http.get("/nowhere"), 404, "not_found")
