"""Somebody in front of the page: a window and a language of their own, eyes, ears and a keyboard."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Request, expect

from tests import photos as pictures

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 860}
PATIENCE_MS = 60_000  # on two cores that many tests share
_LOCALES = {"ko": "ko-KR", "en": "en-GB"}
_WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_axe = Axe()

expect.set_options(timeout=PATIENCE_MS)


class Visitor:
    """One person at one browser. What went wrong in the page is told when they leave."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        *,
        phone: bool = True,
        language: str = "ko",
        shots: Path | None = None,
        pictures_from: str | None = None,
        **context: Any,
    ) -> None:
        self.email = f"{uuid4().hex[:12]}@example.com"
        self.address = address
        self.pictures_from = pictures_from  # the one other origin that the page may ask, for pictures alone
        self.context = browser.new_context(
            base_url=address,
            viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
            is_mobile=phone,
            has_touch=phone,
            locale=_LOCALES[language],
            accept_downloads=True,
            **context,
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.language = language
        self.shots = shots
        self.name = f"{language}-{'phone' if phone else 'desktop'}"
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self.page = self.new_tab()
        self.page.goto("/")
        self.words: dict[str, str] = self.page.evaluate(
            "async (language) => (await import('/studio/words.js')).words[language]", language
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.context.close()
        if kind is None:
            assert self.faults == []
            foreign = [request for request in self.requests if not self._is_ours(request.url)]
            asked = [request.url for request in foreign if not self._is_stored_picture(request)]
            assert asked == [], asked

    def new_tab(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("request", self._note)
        return page

    def _hear(self, kind: str, text: str) -> None:
        # The browser itself reports every answer that is a refusal, and every lost connection.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.address, f"blob:{self.address}", "about:"))

    def _is_stored_picture(self, request: Request) -> bool:
        """Under an address that the storage has signed."""
        origin = self.pictures_from
        return origin is not None and request.url.startswith(f"{origin}/") and "X-Amz-Signature=" in request.url

    # --- What they see

    def say(self, key: str, **values: object) -> str:
        """The page's words, as this person reads them; line breaks read as spaces."""
        return re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]), self.words[key]).replace("\n", " ")

    def title(self, key: str, **values: object) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(self.say(key, **values), use_inner_text=True)

    def sees(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def credits(self, count: int) -> None:
        expect(self.page.locator("[data-part=credits]")).to_have_text(self.say("credits.count", count=count))

    def frames(self) -> Locator:
        return self.page.locator(".frame")

    def stored(self, count: int) -> None:
        """So many photos hang in their frames, decoded."""
        expect(self.page.locator(".frame img.developed")).to_have_count(count)

    def looks_right(self, state: str) -> None:
        """Nothing that axe finds, in light and in dark; a picture of it is kept."""
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            rules = (
                {"type": "tag", "values": _WCAG}
                if scheme == "light"
                else {"type": "rule", "values": ["color-contrast"]}
            )
            found = _axe.run(self.page, options={"runOnly": rules, "resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{state}, {scheme}: {found.generate_report()}"
            if self.shots:
                self.page.screenshot(path=self.shots / f"{self.name}-{state}-{scheme}.png", full_page=True)
        self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")

    # --- What they do

    def press(self, key: str, **values: object) -> None:
        self.page.get_by_role("button", name=self.say(key, **values), exact=True).click()

    def follow(self, key: str, **values: object) -> None:
        self.page.get_by_role("link", name=self.say(key, **values), exact=True).click()

    def sign_in(self) -> Self:
        self.page.get_by_label(self.say("sign-in.email")).fill(self.email)
        self.press("sign-in.submit")
        self.title("home.title")
        return self

    def give(self, picture: bytes | None = None, name: str = "me.jpg", kind: str = "image/jpeg") -> None:
        body = pictures.one_face() if picture is None else picture
        file: Any = {"name": name, "mimeType": kind, "buffer": body}
        self.page.locator("[data-part=file]").set_input_files(file)

    def choose_style(self, key: str) -> None:
        card = self.page.locator(".style-card").filter(has=self.page.locator(f"input[value={key}]"))
        card.locator(".print").click()
        expect(card.locator("input")).to_be_checked()

    def agree(self) -> None:
        self.page.get_by_label(self.say("consent.agree")).check()

    def ask(self, style: str = "CLASSIC", picture: bytes | None = None) -> str:
        """Portrait, style, button; the id of the job that came of it."""
        self.give(picture)
        expect(self.page.locator(".portrait-field.filled")).to_be_visible()
        self.choose_style(style)
        self.agree()
        self.press("submit")
        return self.job_id()

    def sign_out(self) -> None:
        self.follow("nav.account")
        self.press("nav.sign-out")
        self.title("sign-in.title")

    def job_id(self) -> str:
        """Of the job whose page this is, or is about to be."""
        self.page.wait_for_url(re.compile(r"#/jobs/[0-9a-f-]{36}$"))
        return str(self.page.url.rpartition("/")[2])

    def job(self, job_id: str) -> Any:
        """As the API tells it to this person."""
        return self.api(f"/jobs/{job_id}")

    def api(self, path: str) -> Any:
        headers = {"Accept-Language": self.language}
        return self.page.evaluate("async ([path, headers]) => (await fetch(path, { headers })).json()", [path, headers])
