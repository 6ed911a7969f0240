"""The staff's pages in a real browser: they read well on a phone and a desktop, and their forms do what they say."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from api.errors import PROBLEMS
from shared import credits, spending, staff
from shared.settings import Settings
from shared.staff_actions import Actor
from tests.page_stack import PageStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(300)

ACTOR = Actor.command("a test")
EVIL = "<script>document.title='owned'</script>@example.com"

# A month of jobs, as their ends lie in the tables: a few hundred a day, more of them lately.
_HISTORY = """
WITH u AS (SELECT id FROM users WHERE email = :email),
made AS (
  INSERT INTO jobs (id, user_id, style, status, portrait_id, portrait_deleted_at, request_fingerprint, deadline_at,
                    created_at, completed_at)
  SELECT gen_random_uuid(), u.id, (ARRAY['CLASSIC', 'MODERN', 'VINTAGE', 'ROMANTIC', 'CINEMATIC'])[1 + n % 5],
         CASE WHEN n % 23 = 0 THEN 'FAILED' WHEN n % 31 = 0 THEN 'PARTIAL' WHEN n % 19 = 0 THEN 'CANCELED'
              ELSE 'COMPLETED' END,
         gen_random_uuid(), now(), 'f', now(), ended, ended
    FROM u, generate_series(1, 900) n,
         LATERAL (SELECT now() - (power(n / 900.0, 1.5) * 29) * interval '1 day' AS ended) t
  RETURNING id, completed_at, status, style
), photo AS (
  INSERT INTO photos (id, job_id, slot, status) SELECT gen_random_uuid(), id, slot, 'CANCELED'
    FROM made, generate_series(0, 3) slot RETURNING id, job_id
)
INSERT INTO attempts (id, photo_id, number, provider, model, style, seed, outcome, cost, created_at, ended_at)
SELECT gen_random_uuid(), photo.id, 1, 'replicate', 'black-forest-labs/flux-2-pro', style, 1,
       CASE WHEN status = 'COMPLETED' THEN 'SUCCEEDED' ELSE 'FAILED' END,
       CASE WHEN status = 'COMPLETED' THEN 0.045 ELSE 0 END, completed_at, completed_at
  FROM photo JOIN made ON made.id = photo.job_id
"""


def history(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        credits.provision_user(session, EVIL, 2)
        session.execute(text(_HISTORY), {"email": EVIL})


def become_staff(engine: Engine, visitor: Visitor, settings: Settings) -> None:
    with Session(engine) as session, session.begin():
        staff.add(session, ACTOR, visitor.email, settings)


@pytest.mark.parametrize("phone", [True, False])
def test_the_pages_read_well_and_can_be_used_by_everybody(
    browser: Browser, page_stack: PageStack, offline_settings: Settings, shots: Path, phone: bool
) -> None:
    engine = page_stack.worker.engine
    history(engine)
    with Visitor(browser, page_stack.api_url, phone=phone, language="en", shots=shots) as visitor:
        visitor.sign_in()
        job_id = visitor.ask("VINTAGE")
        page_stack.store(visitor.job(job_id), 0, 1)
        become_staff(engine, visitor, offline_settings)
        page = visitor.page
        for path, name, title in (
            ("/admin", "overview", "Overview"),
            ("/admin/users", "users", "Users"),
            (f"/admin/users?q={visitor.email}", "users-found", "Users"),
            ("/admin/actions", "actions", "Actions"),
            (f"/admin/jobs/{job_id}", "job", "VINTAGE PROCESSING"),
        ):
            page.goto(path)
            expect(page.get_by_role("heading", level=1)).to_have_text(title)
            visitor.looks_right(f"admin-{name}")
            fits = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert fits, f"{name} is wider than the window"
        page.goto("/admin/users")
        page.get_by_role("link", name=visitor.email).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(visitor.email)
        page.get_by_text("Grant credits").first.click()
        visitor.looks_right("admin-user")


def test_staff_grant_and_cancel_by_forms(browser: Browser, page_stack: PageStack, offline_settings: Settings) -> None:
    with Visitor(browser, page_stack.api_url, phone=False, language="en") as visitor:
        visitor.sign_in()
        job_id = visitor.ask("CLASSIC")
        become_staff(page_stack.worker.engine, visitor, offline_settings)
        page = visitor.page
        page.goto("/admin")
        page.get_by_role("searchbox").fill(visitor.email[:10])
        page.keyboard.press("Enter")
        page.get_by_role("link", name=visitor.email).click()
        page.locator("summary", has_text="Grant credits").click()
        page.get_by_label("How many?").fill("7")
        page.get_by_label("Why?").fill("a sorry")
        page.get_by_role("button", name="Grant credits").dblclick()
        expect(page.get_by_role("heading", level=2, name="8 credits")).to_be_visible()
        expect(page.locator(".done")).to_contain_text("granted")
        expect(page.get_by_text("a sorry")).to_be_visible()
        page.get_by_role("link", name=job_id[:8]).first.click()
        page.locator("summary", has_text="Cancel the job").click()
        page.get_by_label("Why?").fill("asked by phone")
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.locator(".done")).to_have_text("The job was canceled.")
        page.goto("/")  # the staff's own pages may call nobody
        assert visitor.job(job_id)["status"] == "CANCELED"
        assert visitor.api("/me")["credits"] == 9


@pytest.mark.parametrize("language", ["ko", "en"])
def test_the_page_tells_that_jobs_are_paused_and_takes_none(
    browser: Browser, page_stack: PageStack, offline_settings: Settings, language: str
) -> None:
    engine = page_stack.worker.engine
    with Visitor(browser, page_stack.api_url, language=language) as visitor:
        visitor.sign_in()
        become_staff(engine, visitor, offline_settings)
        page = visitor.page
        page.goto("/admin")
        page.locator("summary", has_text="Pause new jobs").click()
        page.get_by_label("Why?").fill("the bill")
        page.get_by_role("button", name="Pause new jobs").click()
        try:
            expect(page.get_by_role("heading", name="New jobs are paused")).to_be_visible()
            page.goto("/")
            visitor.give()
            visitor.choose_style("VINTAGE")
            visitor.agree()
            visitor.press("submit")
            problem = PROBLEMS["paused"]
            told = page.locator("[data-part=told]")
            expect(told).to_contain_text(problem.ko if language == "ko" else problem.en)
            expect(told).to_contain_text(visitor.say("refused.free"))
            visitor.credits(page_stack.credits)
            page.goto("/admin")
            page.get_by_role("button", name="Take new jobs").click()
            expect(page.get_by_role("heading", name="New jobs are taken")).to_be_visible()
        finally:
            with Session(engine) as session, session.begin():
                spending.resume(session, ACTOR)
        page.goto("/")
        visitor.ask()
