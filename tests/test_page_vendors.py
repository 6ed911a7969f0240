"""The page where photos lie in S3: shown and saved from signed addresses, at the one other host that it may ask."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from cli.vendors import doubled_vendors
from tests.stack import RunningStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(300)


def test_photos_in_s3_are_shown_and_saved(
    browser: Browser, running_stack: Callable[..., RunningStack], tmp_path: Path
) -> None:
    with doubled_vendors(tmp_path) as vendors:
        stack = running_stack(env={**vendors.environment, "CHECK_INTERVAL_SECONDS": "0.5"})
        storage = vendors.environment["S3_ENDPOINT_URL"]
        with Visitor(browser, stack.api_url, phone=False, language="en", pictures_from=storage) as visitor:
            page = visitor.sign_in().page
            job_id = visitor.ask("CLASSIC")
            visitor.stored(4)
            visitor.title("job.title.COMPLETED")
            job = visitor.job(job_id)
            sizes = [(photo["width"], photo["height"]) for photo in job["photos"]]
            shown = page.evaluate("[...document.querySelectorAll('.frame img')].map((img) => img.naturalWidth)")
            assert shown == [width for width, _ in sizes]
            answer = httpx.get(stack.api_url + job["photos"][0]["url"], trust_env=False)
            assert (answer.status_code, answer.headers["location"].startswith(f"{storage}/")) == (307, True)
            policy = httpx.get(stack.api_url, trust_env=False).headers["content-security-policy"]
            assert f"img-src 'self' blob: {storage};" in policy
            # From anywhere else, the port beside it included, the browser lets no picture come.
            port = int(storage.rpartition(":")[2])
            other = storage.replace(f":{port}", f":{port + 1}")
            with page.expect_event("console", lambda message: "Content Security Policy" in message.text):
                page.evaluate("(src) => { new Image().src = src; }", f"{other}/picture.jpg")
            visitor.faults.clear()
            visitor.requests = [request for request in visitor.requests if not request.url.startswith(other)]

            visitor.follow("frame.open", number=1)
            with page.expect_download() as one:
                visitor.follow("photo.download")
            assert one.value.suggested_filename == "cuggu-1.jpg"
            assert Image.open(one.value.path()).size == sizes[0]
            page.keyboard.press("Escape")
            with page.expect_download() as every:
                visitor.follow("job.download-all")
            photos = ZipFile(BytesIO(Path(every.value.path()).read_bytes()))
            assert [Image.open(photos.open(name)).size for name in photos.namelist()] == sizes
            visitor.follow("nav.history")
            expect(page.locator(".past-job .prints img")).to_have_count(4)
            whole = "(img) => img.complete && img.naturalWidth > 0"
            page.wait_for_function(f"() => [...document.querySelectorAll('.prints img')].every({whole})")
