"""The page as it goes over the wire: small, cached without ever being stale, and shut against everything foreign."""

import gzip
import json
import re
from pathlib import Path

import httpx
import pytest

from api.errors import PROBLEMS
from api.studio_files import FOLDER, StudioFiles, content_security_policy
from shared.settings import Settings
from shared.styles import Style


def modules() -> list[Path]:
    return sorted(FOLDER.glob("*.js"))


def words() -> dict[str, dict[str, str]]:
    """`words.js` as data: it is an object of string literals, one a line."""
    found: dict[str, dict[str, str]] = {}
    for line in (FOLDER / "words.js").read_text().splitlines():
        if language := re.fullmatch(r"  (\w\w): \{", line):
            found[language[1]] = {}
        elif entry := re.fullmatch(r'    ("[^"]+"): (".*"),', line):
            list(found.values())[-1][json.loads(entry[1])] = json.loads(entry[2])
    return found


def test_both_languages_say_the_same_things() -> None:
    korean, english = words()["ko"], words()["en"]
    assert list(korean) == list(english)
    for key, sentence in korean.items():
        names = [sorted(set(re.findall(r"\{(\w+)\}", text))) for text in (sentence, english[key])]
        assert names[0] == names[1], key


def test_every_word_is_used_and_every_used_word_exists() -> None:
    sources = [path for path in (*modules(), FOLDER / "index.html") if path.name != "words.js"]
    source = "".join(path.read_text() for path in sources)
    questions = {
        f"{subject}.{part}"
        for subject in re.findall(r'confirmed\("([^"]+)"', source)
        for part in ("question", "text", "confirm")
    }
    asked = set(re.findall(r'(?:data-word(?:-label)?=|\bword\()"([^"]+)"', source)) | questions
    said = asked | set(re.findall(r'"([a-z][\w.-]+)"', source))
    begun = tuple(re.findall(r"`([a-z.-]+\.)\$\{", source))
    known = set(words()["ko"])
    assert asked <= known
    assert {key for key in known - said if not key.startswith(begun)} == set()


def test_no_markup_is_made_of_data() -> None:
    for path in modules():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path


def test_what_the_server_knows_reaches_the_page(offline_settings: Settings) -> None:
    found = StudioFiles(offline_settings).find("contract.js")
    assert found is not None
    told = json.loads(found[0].body.decode().partition("export default ")[2].rstrip(";\n"))
    assert set(told["problems"]) == set(PROBLEMS)
    assert told["problems"]["no_face"] == {"ko": PROBLEMS["no_face"].ko, "en": PROBLEMS["no_face"].en}
    assert told["development"] is True
    assert told["portrait"]["max_bytes"] == offline_settings.upload_max_bytes


@pytest.mark.anyio
async def test_the_page_is_always_fresh_and_its_parts_never_asked_for_twice(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
    assert (await http.get("/", headers={"If-None-Match": page.headers["etag"]})).status_code == 304
    parts = re.findall(r'(?:src|href)="(/studio/[^"]+)"', page.text)
    assert len(parts) >= 5
    for part in parts:
        answer = await http.get(part)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff"), part
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert (await http.get(part, headers={"If-None-Match": answer.headers["etag"]})).status_code == 304
    # While one release replaces another, a part may be asked of a process that has another version.
    other = await http.get(parts[0].replace(parts[0].split("/")[2], "0" * 12))
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    assert (await http.get("/studio/nothing.js")).json()["code"] == "not_found"
    assert (await http.get("/studio/../main.py")).status_code == 404


@pytest.mark.anyio
async def test_every_style_has_a_sample_picture(http: httpx.AsyncClient) -> None:
    styles = (await http.get("/styles")).json()
    assert [style["key"] for style in styles] == list(Style)
    for style in styles:
        sample = await http.get(style["sample_url"])
        assert (sample.status_code, sample.headers["content-type"]) == (200, "image/webp")
        assert len(sample.content) < 30_000


@pytest.mark.anyio
async def test_the_page_may_load_nothing_foreign(http: httpx.AsyncClient) -> None:
    headers = (await http.get("/")).headers
    assert headers["content-security-policy"] == content_security_policy(None)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "same-origin"


def test_photos_may_come_from_exactly_the_host_of_the_storage() -> None:
    policy = content_security_policy("https://bkt.s3.ap-northeast-2.amazonaws.com")
    assert "img-src 'self' blob: https://bkt.s3.ap-northeast-2.amazonaws.com;" in policy


def test_it_is_smaller_still_where_the_browser_unpacks(offline_settings: Settings) -> None:
    found = StudioFiles(offline_settings).find("main.js")
    assert found is not None
    assert found[0].gzipped is not None
    assert gzip.decompress(found[0].gzipped) == found[0].body
