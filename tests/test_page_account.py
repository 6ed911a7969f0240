"""What the page lets people decide about themselves: consent, all about them as a file, and the account's end."""

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.errors import PROBLEMS
from shared import retention
from shared.disk_storage import DiskStorage
from tests.hand_worker import HandWorker
from tests.page_stack import PageStack
from tests.stack import RunningStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(180)

Start = Callable[..., RunningStack]


@pytest.mark.parametrize("language", ["ko", "en"])
def test_nothing_is_sent_before_the_person_agrees(
    browser: Browser, page_stack: PageStack, shots: Path, language: str
) -> None:
    with Visitor(browser, page_stack.api_url, language=language, shots=shots) as visitor:
        visitor.sign_in()
        asked: list[str] = []
        visitor.page.on("request", lambda request: asked.append(request.method))
        visitor.give()
        visitor.choose_style("CLASSIC")
        box = visitor.page.get_by_label(visitor.say("consent.agree"))
        expect(box).not_to_be_checked()
        visitor.press("submit")
        visitor.sees(visitor.say("submit.needs-consent"))
        expect(box).to_be_focused()
        assert "POST" not in asked
        consent = visitor.api("/consent")
        text = visitor.page.get_by_text(consent["text"].splitlines()[1])
        expect(text).to_be_hidden()
        visitor.page.get_by_text(visitor.say("consent.read")).click()
        expect(text).to_be_visible()
        visitor.looks_right("consent")
        box.check()
        visitor.press("submit")
        assert visitor.job(visitor.job_id())["consent_version"] == consent["version"]
        # Going on in the same visit asks nothing twice; another person at this browser is asked.
        visitor.follow("nav.new")
        expect(box).to_be_checked()
        visitor.sign_out()
        visitor.sign_in()
        expect(box).not_to_be_checked()


def test_a_text_that_has_changed_meanwhile_is_asked_again(browser: Browser, running_stack: Start) -> None:
    stack = running_stack(processes=("api",))
    with Visitor(browser, stack.api_url, language="en") as visitor:
        visitor.sign_in()
        visitor.give()
        visitor.choose_style("CLASSIC")
        visitor.agree()
        stack.stop("api")
        stack.change_env(PORTRAIT_RETENTION_SECONDS="7200")
        stack.start("api")
        visitor.press("submit")
        expect(visitor.page.locator("[data-part=told]")).to_contain_text(PROBLEMS["consent_required"].en)
        box = visitor.page.get_by_label(visitor.say("consent.agree"))
        expect(box).not_to_be_checked()
        expect(visitor.page.locator("[data-part=consent-text]")).to_contain_text("2 hours")
        box.check()
        visitor.press("submit")
        visitor.job_id()


def test_everything_about_a_person_and_its_end(browser: Browser, page_stack: PageStack, shots: Path) -> None:
    with Visitor(browser, page_stack.api_url, language="en", shots=shots) as visitor:
        visitor.sign_in()
        job_id = visitor.ask()
        page_stack.store(visitor.job(job_id), 0, 1, 2, 3)
        visitor.title("job.title.COMPLETED")
        visitor.follow("nav.account")
        visitor.title("account.title")
        visitor.sees(visitor.email)
        visitor.looks_right("account")
        with visitor.page.expect_download() as everything:
            visitor.follow("account.export")
        with ZipFile(everything.value.path()) as archive:
            account = json.loads(archive.read("account.json"))
            assert len([name for name in archive.namelist() if name.endswith(".jpg")]) >= 5
        assert visitor.email in json.dumps(account)
        assert job_id in json.dumps(account)

        visitor.press("account.delete")
        visitor.sees(visitor.say("account.delete.question"))
        visitor.press("dialog.back")
        assert visitor.job(job_id)["status"] == "COMPLETED"
        visitor.press("account.delete")
        visitor.page.get_by_role("dialog").get_by_role("button", name=visitor.say("account.delete.confirm")).click()
        visitor.title("sign-in.title")
        visitor.sees(visitor.say("account.deleted"))
        assert visitor.api("/me")["code"] == "unauthorized"
        visitor.page.reload()
        visitor.title("sign-in.title")
        visitor.sign_in()
        visitor.follow("nav.history")
        visitor.sees(visitor.say("history.empty"))


def test_photos_that_were_kept_for_their_time_are_told_of(
    browser: Browser, running_stack: Start, engine: Engine
) -> None:
    stack = running_stack(processes=("api",))
    worker = HandWorker(engine, DiskStorage(stack.data_dir / "objects"), stack.env["REDIS_URL"])
    with Visitor(browser, stack.api_url, language="ko") as visitor:
        visitor.sign_in()
        job_id = visitor.ask()
        PageStack(stack, worker).store(visitor.job(job_id), 0, 1, 2, 3)
        visitor.title("job.title.COMPLETED")
        with Session(engine) as session, session.begin():
            assert retention.expire_photos(session, 0, 10) == 1
        visitor.page.reload()
        expect(visitor.page.locator("[data-part=aged]")).to_contain_text("지워졌습니다")
        expect(visitor.frames()).to_contain_text([visitor.say("frame.gone")] * 4)
        expect(visitor.page.get_by_role("link", name=visitor.say("job.download-all"))).to_be_hidden()
        expect(visitor.page.locator(".frame img:not([hidden])")).to_have_count(0)
        visitor.follow("nav.history")
        expect(visitor.page.locator(".past-job")).to_have_count(1)
        visitor.page.locator(".past-job").click()
        visitor.title("job.title.COMPLETED")
