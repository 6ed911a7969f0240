"""What is refused is said at once and kindly, in the API's own words, in both languages, and costs nothing."""

import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine, text

from api.errors import PROBLEMS
from tests import photos as pictures
from tests.doubles.azure_double import KEY as AZURE_KEY
from tests.doubles.processes import start_double
from tests.page_stack import PageStack
from tests.stack import RunningStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(180)

# What the API looks for with the picture in hand, and what a browser can already see.
BY_THE_API = {
    "no_face": pictures.no_face,
    "multiple_faces": pictures.group,
    "face_too_small": pictures.tiny_face,
}
BY_THE_PAGE = {
    "file_too_large": (pictures.eleven_megabytes, "me.jpg", "image/jpeg"),
    "invalid_image": (lambda: b"no picture at all", "me.jpg", "image/jpeg"),
}


def told(code: str, language: str, **details: object) -> str:
    problem = PROBLEMS[code]
    return (problem.ko if language == "ko" else problem.en).format_map(details)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_portrait_that_cannot_be_used_is_told_beside_it(
    browser: Browser, page_stack: PageStack, shots: Path, language: str
) -> None:
    with Visitor(browser, page_stack.api_url, language=language, shots=shots) as visitor:
        visitor.sign_in()
        complaint = visitor.page.locator("[data-part=complaint]")
        asked: list[str] = []
        visitor.page.on("request", lambda request: asked.append(request.method))
        for code, (picture, name, kind) in BY_THE_PAGE.items():
            visitor.give(picture(), name, kind)
            expect(complaint).to_contain_text(told(code, language))
            expect(complaint).to_contain_text(visitor.say("refused.free"))
        visitor.give(b"%PDF-1.7", "letter.pdf", "application/pdf")
        expect(complaint).to_contain_text(told("invalid_image", language))
        assert "POST" not in asked
        visitor.press("submit")
        visitor.sees(visitor.say("submit.needs-portrait"))
        visitor.give()
        expect(complaint).to_be_empty()
        visitor.press("submit")
        visitor.sees(visitor.say("submit.needs-style"))
        visitor.choose_style("VINTAGE")
        visitor.press("submit")
        visitor.sees(visitor.say("submit.needs-consent"))
        visitor.agree()
        for code, picture in BY_THE_API.items():
            visitor.give(picture())
            expect(complaint).to_be_empty()
            visitor.press("submit")
            expect(complaint).to_contain_text(told(code, language))
            expect(complaint).to_contain_text(visitor.say(f"advice.{code}"))
        visitor.looks_right("refused")
        visitor.credits(page_stack.credits)
        assert visitor.api("/jobs")["jobs"] == []


@contextmanager
def face_service_away(azure_url: str) -> Iterator[None]:
    httpx.post(f"{azure_url}/_dials", json={"faults": ["503"] * 10}, trust_env=False).raise_for_status()
    yield
    httpx.post(f"{azure_url}/_dials", json={"faults": []}, trust_env=False).raise_for_status()


@contextmanager
def storage_away(objects: Path) -> Iterator[None]:
    """A file stands where the directory should be."""
    aside = objects.with_name("aside")
    if objects.exists():
        objects.rename(aside)
    objects.touch()
    yield
    objects.unlink()
    if aside.exists():
        aside.rename(objects)


@contextmanager
def table_away(engine: Engine) -> Iterator[None]:
    """What nobody expects."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
    yield
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO jobs"))


@contextmanager
def database_away(admin: psycopg.Connection, engine: Engine) -> Iterator[None]:
    engine.dispose()
    name = engine.url.database
    admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
    yield
    admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.parametrize("language", ["ko", "en"])
def test_what_is_wrong_with_us_is_told_and_costs_nothing(
    browser: Browser,
    running_stack: Callable[..., RunningStack],
    postgres_admin: psycopg.Connection,
    engine: Engine,
    language: str,
) -> None:
    with start_double("tests.doubles.azure_double") as azure:
        faces = {"FACE_CHECKER": "azure", "AZURE_FACE_ENDPOINT": azure, "AZURE_FACE_API_KEY": AZURE_KEY}
        limits = {"AZURE_FACE_CALLS_PER_MINUTE": "6000", "SUBMISSIONS_PER_WINDOW": "1"}
        stack = running_stack(env={**faces, **limits}, processes=("api",))
        with Visitor(browser, stack.api_url, language=language) as visitor:
            visitor.sign_in()
            visitor.give()
            visitor.choose_style("VINTAGE")
            visitor.agree()
            heard = visitor.page.locator("[data-part=told]")
            # In this order: the face is looked at before anything is stored, and remembered.
            for code, away in (
                ("face_check_unavailable", face_service_away(azure)),
                ("storage_unavailable", storage_away(stack.data_dir / "objects")),
                ("internal", table_away(engine)),
                ("unavailable", database_away(postgres_admin, engine)),
            ):
                with away:
                    visitor.press("submit")
                    expect(heard).to_contain_text(told(code, language))
            assert visitor.api("/me")["credits"] == 2
            visitor.press("submit")
            visitor.job_id()
            visitor.credits(1)
            visitor.follow("nav.new")
            visitor.choose_style("MODERN")
            visitor.press("submit")
            seconds = r"\d+"
            sentence = re.escape(told("rate_limited", language, retry_after_seconds=0)).replace("0", seconds)
            expect(heard).to_contain_text(re.compile(sentence))
            visitor.credits(1)


def test_what_another_tab_has_done_meanwhile_is_told(browser: Browser, page_stack: PageStack) -> None:
    with Visitor(browser, page_stack.api_url, language="en") as visitor:
        visitor.sign_in()
        job_id = visitor.ask()
        page_stack.store(visitor.job(job_id), 0, 1, 2, 3)
        visitor.title("job.title.COMPLETED")
        visitor.follow("job.again")
        visitor.title("home.title")
        visitor.choose_style("VINTAGE")
        away = visitor.page.evaluate(
            "async (path) => (await fetch(path, { method: 'DELETE' })).status", f"/jobs/{job_id}"
        )
        assert away == 204
        visitor.press("submit")
        expect(visitor.page.locator("[data-part=told]")).to_contain_text(told("not_found", "en"))
        visitor.credits(page_stack.credits - 1)


def test_without_credits_it_says_so_before_and_after(browser: Browser, page_stack: PageStack) -> None:
    with Visitor(browser, page_stack.api_url, language="en") as visitor:
        visitor.sign_in()
        for left in reversed(range(page_stack.credits)):
            visitor.ask()
            visitor.credits(left)
            visitor.follow("nav.new")
        visitor.sees(visitor.say("submit.none"))
        visitor.give()
        visitor.choose_style("VINTAGE")
        visitor.press("submit")
        visitor.sees(told("insufficient_credits", "en"))
        visitor.sees(visitor.say("advice.insufficient_credits"))


def test_the_browser_s_language_first_and_then_the_switch_s(browser: Browser, page_stack: PageStack) -> None:
    with Visitor(browser, page_stack.api_url, language="en") as visitor:
        visitor.sign_in()
        visitor.give()
        visitor.choose_style("MODERN")
        expect(visitor.page.locator(".portrait-field.filled")).to_be_visible()
        visitor.press("language.other")
        expect(visitor.page.locator("html")).to_have_attribute("lang", "ko")
        expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("네 장을 받으세요")
        # What was begun is still there.
        expect(visitor.page.locator(".portrait-field.filled")).to_be_visible()
        expect(visitor.page.locator("input[name=style]:checked")).to_have_value("MODERN")
        visitor.page.reload()
        expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("네 장을 받으세요")


def test_a_slow_upload_says_that_it_is_on_its_way(browser: Browser, page_stack: PageStack) -> None:
    with Visitor(browser, page_stack.api_url, language="ko") as visitor:
        visitor.sign_in()
        visitor.give()
        visitor.choose_style("VINTAGE")
        visitor.agree()
        slow = visitor.context.new_cdp_session(visitor.page)
        slow.send("Network.enable")
        slow.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 300, "downloadThroughput": 60_000, "uploadThroughput": 60_000},
        )
        visitor.press("submit")
        expect(visitor.page.locator("[data-part=submit]")).to_have_text(visitor.say("submit.busy"))
        visitor.job_id()
        visitor.title("job.title.QUEUED")


def test_a_picture_can_be_pasted_and_dropped(browser: Browser, page_stack: PageStack) -> None:
    bring = """async ([kind, body]) => {
        const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], "me.jpg", { type: "image/jpeg" }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: files })
            : new DragEvent("drop", { dataTransfer: files, cancelable: true });
        document.dispatchEvent(event);
    }"""
    body = b64encode(pictures.one_face()).decode()
    with Visitor(browser, page_stack.api_url, phone=False) as visitor:
        visitor.sign_in()
        for kind in ("paste", "drop"):
            visitor.page.evaluate(bring, [kind, body])
            expect(visitor.page.locator(".portrait-field.filled")).to_be_visible()
            visitor.page.reload()
            expect(visitor.page.locator(".portrait-field:not(.filled)")).to_be_visible()


def test_in_production_the_site_s_token_opens_the_page_and_leaves_the_address(
    browser: Browser, running_stack: Callable[..., RunningStack]
) -> None:
    secret, site = "a-secret-of-the-site-and-of-nobody-else", "https://site.example"
    settings = {"AUTH_MODE": "jwt", "JWT_SECRET": secret, "JWT_ISSUER": site}
    stack = running_stack(env=settings, processes=("api",))
    with Visitor(browser, stack.api_url, language="en") as visitor:
        visitor.title("sign-in.title")
        expect(visitor.page.get_by_role("link", name=visitor.say("sign-in.site-link"))).to_have_attribute("href", site)
        expect(visitor.page.get_by_label(visitor.say("sign-in.email"))).to_be_hidden()
        claims = {"email": visitor.email, "iss": site, "aud": "cuggu-photos", "exp": time.time() + 600}
        token = jwt.encode(claims, secret, "HS256")
        visitor.page.goto("about:blank")
        visitor.page.goto(f"/#token={token}")
        visitor.title("home.title")
        assert "token" not in visitor.page.url
        # Nor in the history of the tab, in anything that was asked for, in what is kept here, or in what the API says.
        entries = visitor.context.new_cdp_session(visitor.page).send("Page.getNavigationHistory")["entries"]
        assert [entry["url"] for entry in entries if token in entry["url"]] == []
        assert [request.url for request in visitor.requests if token in request.url] == []
        kept = "() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.referrer, history.state])"
        assert token not in visitor.page.evaluate(kept)
        assert token not in stack.logs("api")
        visitor.page.go_back()
        assert visitor.page.url == "about:blank"
        visitor.page.go_forward()
        visitor.title("home.title")
        visitor.page.reload()
        visitor.title("home.title")
        assert visitor.page.evaluate("document.cookie") == ""
