"""The staff's pages: who gets in, that the numbers are the rows', that each act happens once and is written down."""

import asyncio
import csv
import io
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from api.csv_export import cell
from shared import credits, jobs, staff
from shared.settings import Settings
from shared.staff_actions import Actor
from tests.api_client import Client, finish, refused
from tests.rows import money_is_right, new_job

pytestmark = pytest.mark.anyio

STAFF = "boss@example.com"
EVIL = "=<script>alert(1)</script>\"'@example.com"


class Desk:
    """One person at the staff's pages, or in front of them, by a cookie of their own."""

    def __init__(self, http: httpx.AsyncClient, engine: Engine, email: str) -> None:
        self.http, self.engine, self.email = http, engine, email
        self.cookie: dict[str, str] = {}

    async def sign_in(self) -> "Desk":
        answer = await self.http.post("/session", json={"email": self.email})
        self.cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
        self.http.cookies.clear()
        return self

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path, headers=self.cookie)

    async def post(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(path, data=fields or {}, headers={**self.cookie, **headers})

    async def page(self, path: str) -> str:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def grant_form(self, user_id: UUID, amount: int = 5, reason: str = "a sorry") -> dict[str, Any]:
        found = re.search(r'name="nonce" value="([^"]+)"', await self.page(f"/admin/users/{user_id}"))
        assert found
        return {"nonce": found[1], "amount": amount, "reason": reason}

    def rows(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return [tuple(row) for row in done] if done.returns_rows else []

    def actions(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT a.name, u.email, v.email, a.job_id, a.details FROM staff_actions a "
            "LEFT JOIN users u ON u.id = a.actor_user_id LEFT JOIN users v ON v.id = a.user_id "
            "WHERE a.actor_kind = 'STAFF' ORDER BY a.id"
        )


@pytest.fixture
async def desk(http: httpx.AsyncClient, engine: Engine, settings: Settings) -> Desk:
    with Session(engine) as session, session.begin():
        staff.add(session, Actor.command("a test"), STAFF, settings)
    return await Desk(http, engine, STAFF).sign_in()


@pytest.fixture
async def visitor(http: httpx.AsyncClient, engine: Engine) -> Desk:
    """Signed in, and no staff."""
    return await Desk(http, engine, "kim@example.com").sign_in()


def user_of(engine: Engine, email: str, credit: int = 2) -> UUID:
    with Session(engine) as session, session.begin():
        return credits.provision_user(session, email, credit)


USER, JOB = f"/admin/users/{uuid4()}", f"/admin/jobs/{uuid4()}"
EXPORTS = tuple(f"/admin/export/{what}.csv" for what in ("ledger", "jobs", "actions"))
PAGES = ("/admin", "/admin/admin.css", "/admin/users", USER, JOB, "/admin/actions", *EXPORTS)
FORMS = ("/admin/pause", "/admin/resume", f"{USER}/grant", f"{JOB}/retry", f"{JOB}/cancel")


async def test_who_is_no_staff_finds_nothing_there(desk: Desk, visitor: Desk) -> None:
    nobody = Desk(desk.http, desk.engine, "")
    forged = Desk(desk.http, desk.engine, "")
    forged.cookie = {"Cookie": "cuggu_session=nonsense"}
    for who in (visitor, nobody, forged):
        missing = refused(await who.get("/nowhere"), 404, "not_found")
        for path in PAGES:
            assert refused(await who.get(path), 404, "not_found") == missing
        for path in FORMS:
            fields = {"reason": "r", "amount": "1", "nonce": str(uuid4())}
            assert refused(await who.post(path, fields), 404, "not_found") == missing
            # Not even by what another site's page would be told.
            assert refused(await who.post(path, fields, **{"Sec-Fetch-Site": "cross-site"}), 404, "not_found")
    assert visitor.rows("SELECT count(*) FROM pauses") == [(0,)]
    assert desk.actions() == []
    assert desk.rows("SELECT count(*) FROM users") == [(2,)], "nobody is made a user by looking"


async def test_staff_come_and_go(desk: Desk) -> None:
    assert (await desk.get("/admin")).status_code == 200
    with Session(desk.engine) as session, session.begin():
        assert staff.remove(session, Actor.command("a test"), STAFF)
    refused(await desk.get("/admin"), 404, "not_found")
    told = desk.rows("SELECT name, actor_kind, actor_name FROM staff_actions ORDER BY id")
    assert told == [("staff.added", "COMMAND", "a test"), ("staff.removed", "COMMAND", "a test")]


async def test_a_bearer_token_does_not_open_the_pages(desk: Desk, settings: Settings) -> None:
    client = Client(desk.http, settings, email=STAFF)
    refused(await client.get("/admin"), 404, "not_found")


async def test_nothing_foreign_and_no_script_may_run(desk: Desk) -> None:
    answer = await desk.get("/admin")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "script-src" not in policy
    assert (policy["form-action"], policy["frame-ancestors"]) == ("'self'", "'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert "<script" not in answer.text
    assert "style=" not in answer.text


@pytest.mark.parametrize("sent", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                                  {"Origin": "https://evil.example"}])  # fmt: skip
async def test_another_sites_page_can_make_staff_do_nothing(desk: Desk, sent: dict[str, str]) -> None:
    user_id = user_of(desk.engine, "kim@example.com")
    fields = await desk.grant_form(user_id)
    for path in ("/admin/pause", "/admin/resume", f"/admin/users/{user_id}/grant"):
        answer = await desk.post(path, fields, **sent)
        assert (answer.status_code, "Nothing was changed" in answer.text) == (403, True)
    assert desk.actions() == []
    assert desk.rows("SELECT credits FROM users WHERE id = :id", id=user_id) == [(2,)]


async def test_what_users_wrote_is_shown_and_never_run(desk: Desk) -> None:
    user_id = user_of(desk.engine, EVIL)
    with Session(desk.engine) as session, session.begin():
        credits.grant(session, user_id, 1, "<img src=x onerror=alert(1)>")
        job_id = new_job(user_id)
        jobs.accept(session, job_id)
    fields = await desk.grant_form(user_id, reason="</td><script>alert(2)</script>")
    assert (await desk.post(f"/admin/users/{user_id}/grant", fields)).status_code == 303
    desk.rows("UPDATE jobs SET error_detail = '<b onclick=x>', error_code = 'x' WHERE id = :id", id=job_id.id)
    paths = ("/admin/users", f"/admin/users/{user_id}", f"/admin/jobs/{job_id.id}", "/admin/actions",
             "/admin/users?q=<script>alert(3)</script>", "/admin?done=<script>")  # fmt: skip
    for path in paths:
        shown = await desk.page(path)
        assert "<script" not in shown, path
        assert "<img" not in shown, path
        assert "<b onclick" not in shown, path
    assert "&lt;script&gt;alert(1)" in await desk.page("/admin/users")
    assert "&lt;b onclick=x&gt;" in await desk.page(f"/admin/jobs/{job_id.id}")


# --- Finding


async def test_users_are_found_by_how_their_address_begins_page_by_page(desk: Desk) -> None:
    with Session(desk.engine) as session, session.begin():
        for number in range(120):
            credits.provision_user(session, f"Kim{number:03}@example.com", 0)
        credits.provision_user(session, "lee_%@example.com", 0)
    seen: list[str] = []
    path = "/admin/users?q=kIm"
    while path:
        shown = await desk.page(path)
        seen += re.findall(r">(kim\d+)@example.com<", shown)
        more = re.search(r'href="(\?[^"]+)">The next ones', shown)
        path = "/admin/users" + more[1].replace("&amp;", "&") if more else ""
    assert seen == [f"kim{number:03}" for number in range(120)]
    assert "lee_%@example.com" in await desk.page("/admin/users?q=lee_%25")
    assert "Nobody" in await desk.page("/admin/users?q=%25")
    assert "Nobody" in await desk.page("/admin/users?q=a%00b")


async def test_users_and_jobs_are_found_by_id_and_a_forgotten_address_is_no_obstacle(desk: Desk) -> None:
    user_id = user_of(desk.engine, "kim@example.com")
    with Session(desk.engine) as session, session.begin():
        new = new_job(user_id)
        jobs.accept(session, new)
    answer = await desk.get(f"/admin/users?q={user_id}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/admin/users/{user_id}")
    answer = await desk.get(f"/admin/users?q={str(new.id)[:8].upper()}")
    assert answer.headers["location"] == f"/admin/jobs/{new.id}"
    assert "Nobody" in await desk.page(f"/admin/users?q={uuid4()}")
    assert (await desk.get(f"/admin/users/{uuid4()}")).status_code == 404
    assert (await desk.get(f"/admin/jobs/{uuid4()}")).status_code == 404
    desk.rows("UPDATE users SET email = :email WHERE id = :id", id=user_id, email=f"deleted:{user_id}")
    for path in (f"/admin/users/{user_id}", f"/admin/jobs/{new.id}", "/admin/users"):
        assert f"deleted:{user_id}" in await desk.page(path)


async def test_a_users_page_goes_back_to_the_first_entry_and_the_first_job(desk: Desk) -> None:
    user_id = user_of(desk.engine, "kim@example.com", credit=60)
    made = []
    for _ in range(60):
        with Session(desk.engine) as session, session.begin():
            new = new_job(user_id)
            jobs.accept(session, new)
            made.append(str(new.id))
    shown, path = [], f"/admin/users/{user_id}"
    for _ in range(2):
        body = await desk.page(path)
        jobs_part = body[body.index('id="jobs"') : body.index('id="ledger"')]
        shown += re.findall(r'href="/admin/jobs/([^"]+)"', jobs_part)
        more = re.search(r'href="(\?jobs_before[^"#]+)', body)
        path = f"/admin/users/{user_id}{more[1]}" if more else ""
    assert shown == made[::-1]
    assert path == ""
    more = re.search(r'href="(\?ledger_before=\d+)', await desk.page(f"/admin/users/{user_id}"))
    assert more
    assert "SIGNUP" in await desk.page(f"/admin/users/{user_id}{more[1]}")
    assert (await desk.get(f"/admin/users/{user_id}?jobs_before=nonsense")).status_code == 404


# --- Acting


async def test_a_grant_is_made_once_however_often_its_form_is_sent(desk: Desk) -> None:
    user_id = user_of(desk.engine, "kim@example.com")
    fields = await desk.grant_form(user_id, 5, "a sorry")
    path = f"/admin/users/{user_id}/grant"
    answers = await asyncio.gather(*(desk.post(path, fields) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {303}
    ends = sorted(answer.headers["location"].rpartition("=")[2] for answer in answers)
    assert ends == ["granted"] + ["granted-before"] * 3
    assert desk.rows("SELECT credits FROM users WHERE id = :id", id=user_id) == [(7,)]
    granted = [action for action in desk.actions() if action[0] == "credits.granted"]
    told = {"amount": 5, "reason": "a sorry", "reference": f"staff:{fields['nonce']}"}
    assert granted == [("credits.granted", STAFF, "kim@example.com", None, told)]
    # Gone back and changed: the same form means one grant.
    answer = await desk.post(path, {**fields, "amount": 6})
    assert (answer.status_code, "Nothing was changed" in answer.text) == (409, True)
    assert "The credits were granted" in await desk.page(f"/admin/users/{user_id}?done=granted")
    money_is_right(desk.engine)


@pytest.mark.parametrize(
    "wrong",
    [{"amount": "0"}, {"amount": "-5"}, {"amount": "1001"}, {"amount": "many"}, {"reason": " "}, {"nonce": "x"},
     {"reason": "x" * 501}, {"reason": "a\0b"}],
)  # fmt: skip
async def test_a_form_that_is_not_as_it_should_be_changes_nothing(desk: Desk, wrong: dict[str, str]) -> None:
    user_id = user_of(desk.engine, "kim@example.com")
    fields = {**await desk.grant_form(user_id), **wrong}
    answer = await desk.post(f"/admin/users/{user_id}/grant", fields)
    assert (answer.status_code, "Nothing was changed" in answer.text) == (400, True)
    assert desk.actions() == []


async def test_a_failed_job_is_retried_once_and_free(desk: Desk, client: Client, settings: Settings) -> None:
    job = (await client.submit()).json()
    finish(desk.engine, settings, job, stored=0)
    path = f"/admin/jobs/{job['id']}"
    assert "Retry at our cost" in await desk.page(path)
    answers = await asyncio.gather(*(desk.post(f"{path}/retry", {"reason": "it was us"}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [303, 409]
    (first,) = (answer for answer in answers if answer.status_code == 303)
    new_path = first.headers["location"].partition("?")[0]
    assert "it was us" in await desk.page(new_path)
    assert "it was us" in await desk.page(path)
    assert await client.balance() == 2
    new_id = new_path.rpartition("/")[2]
    told = {"new_job_id": new_id, "reason": "it was us"}
    assert desk.actions() == [("job.retried", STAFF, client.email, UUID(job["id"]), told)]
    assert (await client.get(f"/jobs/{new_id}")).json()["status"] == "QUEUED"
    money_is_right(desk.engine)


async def test_a_job_is_canceled_once_in_its_users_place(desk: Desk, client: Client) -> None:
    job = (await client.submit()).json()
    path = f"/admin/jobs/{job['id']}"
    assert "Cancel the job" in await desk.page(path)
    answers = await asyncio.gather(*(desk.post(f"{path}/cancel", {"reason": "asked by phone"}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [303, 409]
    assert (await client.get(f"/jobs/{job['id']}")).json()["status"] == "CANCELED"
    assert await client.balance() == 2
    told = {"reason": "asked by phone", "refunded": True}
    assert desk.actions() == [("job.canceled", STAFF, client.email, UUID(job["id"]), told)]
    assert "Cancel the job" not in await desk.page(path)
    assert (await desk.post(f"/admin/jobs/{uuid4()}/cancel", {"reason": "r"})).status_code == 404


async def test_staff_pause_and_resume(desk: Desk, client: Client) -> None:
    assert "New jobs are taken" in await desk.page("/admin")
    answers = [await desk.post("/admin/pause", {"reason": "the bill"}) for _ in range(2)]
    assert [answer.headers["location"] for answer in answers] == ["/admin?done=paused", "/admin?done=paused-before"]
    shown = await desk.page("/admin")
    assert "New jobs are paused" in shown
    assert "the bill" in shown
    assert "지금은 새 작업을 받지 않습니다" in shown
    refused(await client.submit(), 503, "paused")
    answers = [await desk.post("/admin/resume") for _ in range(2)]
    assert [answer.headers["location"] for answer in answers] == ["/admin?done=resumed", "/admin?done=resumed-before"]
    assert (await client.submit()).status_code == 202
    assert [action[0] for action in desk.actions()] == ["jobs.paused", "jobs.resumed"]


async def test_what_was_done_can_be_neither_changed_nor_taken_away(desk: Desk) -> None:
    for statement in ("UPDATE staff_actions SET name = 'x'", "DELETE FROM staff_actions"):
        with pytest.raises(DBAPIError, match="never changed"):
            desk.rows(statement)
    assert "staff.added" in await desk.page("/admin/actions")


async def test_the_list_of_actions_goes_back_to_the_first(desk: Desk) -> None:
    desk.rows(
        "INSERT INTO staff_actions (actor_kind, actor_name, name, details) "
        "SELECT 'COMMAND', 'cron', 'number.' || n, '{}' FROM generate_series(1, 70) n"
    )
    first = await desk.page("/admin/actions")
    assert "number.70<" in first
    assert "staff.added" not in first
    more = re.search(r'href="(\?before=\d+)"', first)
    assert more
    assert "staff.added" in await desk.page(f"/admin/actions{more[1]}")


# --- Numbers


async def numbered(desk: Desk, settings: Settings) -> None:
    """Jobs of several ends, with costs, today and on other days, and some beyond the window."""
    client = Client(desk.http, settings)
    await client.get("/me")
    desk.rows("UPDATE users SET credits = 20 WHERE email = :email", email=client.email)
    desk.rows(
        "UPDATE ledger_entries SET amount = 20, balance_after = 20 FROM users u "
        "WHERE u.id = user_id AND u.email = :email",
        email=client.email,
    )
    for style, stored in (("CLASSIC", 4), ("MODERN", 0), ("MODERN", 2), ("CLASSIC", 4)):
        job = (await client.submit(style=style)).json()
        finish(desk.engine, settings, job, stored=stored)
    await client.http.post(f"/jobs/{(await client.submit()).json()['id']}/cancel", headers=client.headers)
    desk.rows("UPDATE attempts SET cost = 0.045, model = 'some/model' WHERE outcome = 'SUCCEEDED'")
    days = "CASE style WHEN 'MODERN' THEN 3 ELSE 40 END"
    desk.rows(f"UPDATE jobs SET completed_at = completed_at - {days} * interval '1 day' WHERE status <> 'CANCELED'")
    desk.rows("UPDATE attempts SET ended_at = ended_at - interval '40 days' WHERE number = 1 AND photo_id IN "
              "(SELECT id FROM photos WHERE slot = 0)")  # fmt: skip


async def test_the_overview_says_what_sql_says(desk: Desk, settings: Settings) -> None:
    await numbered(desk, settings)
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", await desk.page("/admin")))
    [(balances, users)] = desk.rows("SELECT sum(credits), count(*) FROM users")
    assert f" users {users} " in shown
    assert f" credits they hold {balances} " in shown
    since = "date_trunc('day', now(), 'UTC') - interval '29 days'"
    [(cost,)] = desk.rows(f"SELECT sum(cost) FROM attempts WHERE ended_at >= {since}")
    assert cost > 0
    assert f" cost, 30 days ${cost:.2f} " in shown
    [(day, partial, failed)] = desk.rows(
        "SELECT completed_at::date, count(*) FILTER (WHERE status = 'PARTIAL'), count(*) FILTER (WHERE "
        f"status = 'FAILED') FROM jobs WHERE completed_at >= {since} AND status <> 'CANCELED' GROUP BY 1"
    )
    assert f" {day} 0 {partial} {failed} 0 100.0% $0.00 " in shown
    [(style_cost,)] = desk.rows(
        "SELECT sum(a.cost) FROM attempts a JOIN photos p ON p.id = photo_id JOIN jobs j ON j.id = job_id "
        f"WHERE j.style = 'MODERN' AND ended_at >= {since}"
    )
    assert f" MODERN 0 {partial} {failed} 0 100.0% ${style_cost:.2f} " in shown
    [(attempts,)] = desk.rows(f"SELECT count(*) FROM attempts WHERE model = 'some/model' AND ended_at >= {since}")
    assert f" some/model {attempts} {attempts} 0 0 0 0.0% ${cost:.2f} " in shown


async def test_what_is_stuck_is_listed(desk: Desk, client: Client) -> None:
    job = (await client.submit()).json()
    assert "Nothing." in await desk.page("/admin")
    desk.rows("UPDATE jobs SET deadline_at = now() - interval '5 minutes'")
    desk.rows("UPDATE photos SET next_check_at = now() - interval '5 minutes' WHERE slot = 0")
    desk.rows(
        "INSERT INTO attempts (id, photo_id, number, provider, model, seed, created_at) SELECT gen_random_uuid(), id, "
        "1, 'replicate', 'm', 1, now() - interval '5 minutes' FROM photos WHERE slot = 1"
    )
    desk.rows(
        "INSERT INTO attempts (id, photo_id, number, provider, model, seed, outcome, ended_at, close_due_at) SELECT "
        "gen_random_uuid(), id, 1, 'replicate', 'm', 1, 'LOST', now(), now() - interval '5 minutes' "
        "FROM photos WHERE slot = 2"
    )
    shown = await desk.page("/admin")
    for what in ("deadline passed", "photo left alone", "create call without an answer", "attempt not closed",
                 "attempt lost"):  # fmt: skip
        assert f"<td>{what}</td>" in shown
    assert f"/admin/jobs/{job['id']}" in shown


# --- CSV


def table(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_the_ledger_is_exported_whole_and_harmless(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.csv_export.BATCH", 3)
    user_id = user_of(desk.engine, "kim@example.com", credit=0)
    with Session(desk.engine) as session, session.begin():
        for number in range(7):
            credits.grant(session, user_id, 1, f"=HYPERLINK({number})")
        jobs.accept(session, new_job(user_id))
    rows = table(await desk.get("/admin/export/ledger.csv"))
    whole = desk.rows("SELECT id, amount FROM ledger_entries ORDER BY id")
    assert [(int(row["id"]), int(row["amount"])) for row in rows] == whole
    assert [row["reference"] for row in rows if "HYPERLINK" in row["reference"]] == [
        f"'=HYPERLINK({n})" for n in range(7)
    ]
    assert "-1" in [row["amount"] for row in rows], "a number is a number"
    assert "kim@example.com" not in str(rows)
    assert table(await desk.get("/admin/export/ledger.csv?first=&last=")) == rows, "as the empty form asks for"
    assert table(await desk.get("/admin/export/ledger.csv?first=2020-01-01&last=2020-02-01")) == []
    for wrong in ("first=2020-01-01&last=2026-01-01", "first=2026-02-01&last=2026-01-01", "first=nonsense"):
        assert (await desk.get(f"/admin/export/ledger.csv?{wrong}")).status_code == 400
    assert [action[0] for action in desk.actions()] == ["ledger.exported"] * 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_begins_a_formula(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert cell(-1) == -1


async def test_jobs_and_actions_are_exported(desk: Desk, settings: Settings) -> None:
    await numbered(desk, settings)
    rows = table(await desk.get("/admin/export/jobs.csv"))
    assert [(row["style"], row["partial"], row["failed"], row["canceled"]) for row in rows] == [
        ("MODERN", "1", "1", "0"),
        ("CLASSIC", "0", "0", "1"),
    ]
    actions = table(await desk.get("/admin/export/actions.csv"))
    assert [row["name"] for row in actions] == ["staff.added", "jobs.exported", "actions.exported"]
    assert STAFF not in str(actions), "people stand there by their id"
