"""The whole story in a real browser, on the whole system: from the door to the last photo deleted."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image
from playwright.sync_api import Browser, Request, expect
from sqlalchemy import Engine

from shared.disk_storage import DiskStorage
from shared.thumbnail import make_thumbnail
from tests import photos as pictures
from tests.hand_worker import HandWorker
from tests.stack import RunningStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(300)
FIRST_VIEW_BYTES = 100_000  # without photos
HISTORY_BYTES = 200_000


@pytest.mark.parametrize(("phone", "language"), [(True, "ko"), (False, "en")])
def test_the_whole_story(
    browser: Browser, running_stack: Callable[..., RunningStack], shots: Path, phone: bool, language: str
) -> None:
    stack = running_stack(env={"PREVIEW_SECONDS": "1", "CHECK_INTERVAL_SECONDS": "0.5"})
    with Visitor(browser, stack.api_url, phone=phone, language=language, shots=shots) as visitor:
        page = visitor.page
        visitor.title("sign-in.title")
        visitor.looks_right("door")
        visitor.sign_in()
        visitor.credits(2)
        visitor.looks_right("home")

        job_id = visitor.ask("ROMANTIC")
        visitor.credits(1)
        expect(visitor.frames()).to_have_count(4)
        visitor.stored(4)
        visitor.title("job.title.COMPLETED")
        visitor.looks_right("light-table")

        visitor.follow("frame.open", number=2)
        visitor.sees(visitor.say("photo.position", number=2, total=4))
        page.keyboard.press("ArrowRight")
        visitor.sees(visitor.say("photo.position", number=3, total=4))
        visitor.looks_right("large")
        visitor.press("photo.choose")
        expect(page.get_by_role("button", name=visitor.say("photo.chosen"), pressed=True)).to_be_visible()
        with page.expect_download() as one:
            visitor.follow("photo.download")
        assert Image.open(one.value.path()).size == (900, 1200)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(visitor.frames().nth(2)).to_have_class(re.compile("chosen"))
        with page.expect_download() as every:
            visitor.follow("job.download-all")
        photos = ZipFile(BytesIO(Path(every.value.path()).read_bytes()))
        assert [Image.open(photos.open(name)).size for name in photos.namelist()] == [(900, 1200)] * 4

        visitor.follow("job.again")
        visitor.title("home.title")
        visitor.sees(visitor.say("portrait.again"))
        visitor.choose_style("CINEMATIC")
        visitor.press("submit")
        page.wait_for_url(lambda url: "#/jobs/" in url and job_id not in url)
        visitor.credits(0)
        visitor.stored(4)

        visitor.follow("nav.history")
        visitor.title("history.title")
        expect(page.locator(".past-job")).to_have_count(2)
        expect(page.locator(".prints .chosen")).to_have_count(1)
        visitor.looks_right("history")
        page.locator(".past-job").last.click()
        visitor.title("job.title.COMPLETED")
        visitor.press("job.delete")
        visitor.sees(visitor.say("job.delete.question"))
        visitor.looks_right("deleting")
        visitor.press("dialog.back")
        assert visitor.job(job_id)["status"] == "COMPLETED"
        visitor.press("job.delete")
        visitor.press("job.delete.confirm")
        visitor.title("history.title")
        expect(page.locator(".past-job")).to_have_count(1)
        assert visitor.job(job_id)["code"] == "not_found"
        page.goto(f"/#/jobs/{job_id}")
        visitor.title("job.not-found")
        visitor.looks_right("gone")

        page.locator("[data-part=credits]").click()
        visitor.title("ledger.title")
        expect(page.locator(".entries li")).to_have_count(3)
        visitor.looks_right("ledger")
        visitor.sign_out()


def test_a_history_full_of_photos_weighs_less_than_200_kb(
    browser: Browser, running_stack: Callable[..., RunningStack], engine: Engine
) -> None:
    jobs = 12  # what the page shows at once
    env = {"SIGNUP_CREDITS": str(jobs), "SUBMISSIONS_PER_WINDOW": str(jobs)}
    stack = running_stack(env=env, processes=("api",))
    worker = HandWorker(engine, DiskStorage(stack.data_dir / "objects"), stack.env["REDIS_URL"])
    with Visitor(browser, stack.api_url) as visitor:
        visitor.sign_in()
        for number in range(jobs):
            visitor.choose_style("CLASSIC")
            visitor.give(pictures.one_face())
            visitor.agree()
            visitor.press("submit")
            for photo in visitor.job(visitor.job_id())["photos"]:
                # As heavy as a thumbnail may be.
                noise = Image.effect_noise((900, 1200), 40 + number + photo["slot"]).convert("RGB")
                worker.start(photo)
                worker.store(photo, pictures.one_face(), (512, 512), make_thumbnail(noise))
            visitor.title("job.title.COMPLETED")
            visitor.follow("nav.new")
            visitor.title("home.title")
        before = len(visitor.requests)
        visitor.follow("nav.history")
        expect(visitor.page.locator(".past-job")).to_have_count(jobs)
        for print_ in visitor.page.locator(".prints img").all():
            print_.scroll_into_view_if_needed()  # they are loaded as they come into sight
        visitor.page.wait_for_load_state("networkidle")
        asked = visitor.requests[before:]
        assert len([request for request in asked if request.url.endswith("/thumbnail")]) == jobs * 4
        weight = sum(map(weight_of, asked))
    print(f"the history weighs {weight} bytes")
    assert weight < HISTORY_BYTES


def weight_of(request: Request) -> int:
    """What its answer weighed on the wire."""
    sizes = request.sizes()
    return sizes["responseHeadersSize"] + sizes["responseBodySize"]


def test_the_first_view_weighs_less_than_a_photo(browser: Browser, running_stack: Callable[..., RunningStack]) -> None:
    with Visitor(browser, running_stack(processes=("api",)).api_url) as visitor:
        visitor.page.wait_for_load_state("networkidle")
        weights = {request.url: weight_of(request) for request in visitor.requests if not request.url.endswith(".webp")}
    assert len(weights) > 20
    print(f"the first view weighs {sum(weights.values())} bytes")
    assert sum(weights.values()) < FIRST_VIEW_BYTES, weights
