"""The site is told of every end of a job: signed, in time, at least once, and once is enough."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import structlog
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from shared import deliveries, jobs
from shared.change_notes import ChangeNotes
from shared.deliveries import GIVEN_UP_AFTER_SECONDS
from shared.errors import JobEnded
from shared.queue import MAINTENANCE_QUEUE, JobQueue, make_celery
from shared.settings import Settings
from tests.api_client import finish
from tests.doubles.receiver import Received, Receiver, receiver
from tests.rows import accepted_job
from tests.stack import RunningStack
from tests.test_end_to_end import Person
from worker import site_webhook, sweeper
from worker.site_webhook import LEASE_SECONDS, LONGEST_PAUSE_SECONDS, SiteWebhook

SECRET, OLD_SECRET = (f"whsec_{letter * 32}" for letter in "AB")


class World:
    """Jobs that end, and the site that wants to hear of it."""

    def __init__(self, engine: Engine, settings: Settings, site: Receiver) -> None:
        self.engine, self.site = engine, site
        self.settings = settings.model_copy(
            update={
                "site_webhook_url": f"{site.url}/hooks",
                "site_webhook_secrets": (SecretStr(SECRET), SecretStr(OLD_SECRET)),
                "site_webhook_private_addresses": True,
                "public_url": "https://photos.example/",
            }
        )
        self.sessions = sessionmaker(engine, expire_on_commit=False)
        self.webhook = SiteWebhook(self.sessions, self.settings)
        self.queue = JobQueue(make_celery(settings), settings.redis_url)

    def accept(self, **options: object) -> tuple[UUID, UUID, tuple[UUID, ...]]:
        return accepted_job(self.engine, delivery_wanted=True, **options)

    def end(self, stored: int = 4) -> UUID:
        """A job that ends with so many photos; its id."""
        _, job_id, photo_ids = self.accept()
        photos = [{"id": photo_id, "slot": slot} for slot, photo_id in enumerate(photo_ids)]
        finish(self.engine, self.settings, {"photos": photos}, stored)
        return job_id

    def cancel(self, user_id: UUID, job_id: UUID) -> None:
        with self.sessions.begin() as session:
            jobs.cancel(session, user_id, job_id)

    def sweep(self, **changes: object) -> None:
        settings = self.settings.model_copy(update=changes)
        sweeper.sweep(self.sessions, self.queue, ChangeNotes(settings.redis_url), settings)

    def sql(self, statement: str, **values: object) -> list[Any]:
        with self.engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return list(done) if done.returns_rows else []

    def row(self) -> Any:
        """The only delivery."""
        [row] = self.sql("SELECT *, next_try_at - cuggu_now() AS pause FROM deliveries")
        return row

    def deliver(self) -> None:
        self.webhook.deliver(self.row().id)

    def pass_time(self, seconds: float) -> None:
        """Put the deliveries back in time, as if so much of it had passed."""
        self.sql(
            "UPDATE deliveries SET created_at = created_at - :s * interval '1 s', "
            "first_tried_at = first_tried_at - :s * interval '1 s', next_try_at = next_try_at - :s * interval '1 s', "
            "sent_at = sent_at - :s * interval '1 s'",
            s=seconds,
        )

    def waiting(self) -> int:
        with Redis.from_url(self.settings.redis_url) as redis:
            return int(redis.llen(MAINTENANCE_QUEUE))  # type: ignore[arg-type]


@pytest.fixture
def site() -> Iterator[Receiver]:
    with receiver() as web:
        yield web


@pytest.fixture
def world(engine: Engine, settings: Settings, site: Receiver) -> World:
    return World(engine, settings, site)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as events:
        monkeypatch.setattr(site_webhook, "log", structlog.get_logger())  # one not yet bound to a configuration
        yield events


def told(post: Received, secret: str = SECRET) -> dict[str, Any]:
    """What the post says, once its signature is verified as a site verifies it."""
    event: dict[str, Any] = Webhook(secret).verify(post.body, dict(post.headers))
    return event


# --- One for every end


def overdue(world: World) -> UUID:
    job_id = world.accept(deadline_seconds=0)[1]
    world.sweep(site_webhook_url=None)
    return job_id


def canceled(world: World) -> UUID:
    user_id, job_id, _ = world.accept()
    world.cancel(user_id, job_id)
    return job_id


@pytest.mark.parametrize(
    ("end", "status", "code", "refunded", "stored"),
    [
        (lambda world: world.end(4), "COMPLETED", None, False, 4),
        (lambda world: world.end(3), "PARTIAL", "moderated", True, 3),
        (lambda world: world.end(0), "FAILED", "moderated", True, 0),
        (overdue, "FAILED", "deadline_exceeded", True, 0),
        (canceled, "CANCELED", "canceled", True, 0),
    ],
    ids=["completed", "partial", "failed", "overdue", "canceled"],
)
def test_each_kind_of_end_is_told_in_the_words_of_the_api(
    world: World, end: Callable[[World], UUID], status: str, code: str | None, refunded: bool, stored: int
) -> None:
    job_id = end(world)
    world.deliver()
    [post] = world.site.posts
    event = told(post)
    assert told(post, OLD_SECRET) == event
    assert (post.path, post.headers["webhook-id"]) == ("/hooks", str(world.row().id))
    assert event["type"] == f"job.{status.lower()}"
    job = event["data"]
    [(email, completed_at)] = world.sql("SELECT email, completed_at FROM jobs JOIN users ON users.id = user_id")
    assert (job["id"], job["status"], job["style"], job["role"]) == (str(job_id), status, "CLASSIC", None)
    assert job["user"] == {"email": email}
    assert job["error"] == (None if code is None else {"code": code, "refunded": refunded})
    assert job["selected_photo_id"] is None
    assert datetime.fromisoformat(job["completed_at"]) == datetime.fromisoformat(event["timestamp"]) == completed_at
    assert event["timestamp"].endswith("Z")
    assert [photo["slot"] for photo in job["photos"]] == [0, 1, 2, 3]
    urls = [photo["url"] for photo in job["photos"]]
    assert urls == [
        f"https://photos.example/media/{photo['id']}" if photo["slot"] < stored else None for photo in job["photos"]
    ]
    row = world.row()
    assert (row.status, row.tries, row.last_status, row.last_error) == ("DELIVERED", 1, 204, None)


def test_nobody_is_told_of_a_job_that_wanted_none_or_has_not_ended_or_whose_end_was_taken_back(world: World) -> None:
    user_id, job_id, _ = accepted_job(world.engine)
    world.cancel(user_id, job_id)
    user_id, job_id, _ = world.accept()
    with Session(world.engine) as session:
        jobs.cancel(session, user_id, job_id)
        session.rollback()
    assert world.sql("SELECT * FROM deliveries") == []


def test_of_two_ends_at_once_one_is_told(world: World) -> None:
    ended = [world.accept(deadline_seconds=0)[:2] for _ in range(6)]

    def cancel(user_id: UUID, job_id: UUID) -> None:
        with suppress(JobEnded):
            world.cancel(user_id, job_id)

    with ThreadPoolExecutor(12) as pool:
        racing = [pool.submit(cancel, *job) for job in ended]
        racing += [pool.submit(world.sweep, site_webhook_url=None) for _ in range(6)]
        for one in racing:
            one.result()
    assert sorted(world.sql("SELECT job_id FROM deliveries")) == sorted((job_id,) for _, job_id in ended)
    told_of = world.sql(
        "SELECT d.status FROM deliveries d JOIN jobs j ON j.id = d.job_id AND j.completed_at IS NOT NULL"
    )
    assert told_of == [("WAITING",)] * 6


# --- Until it is taken


def test_what_is_not_taken_comes_again_under_the_same_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.end()
    world.site.statuses += [500, 302]
    refused = world.webhook._sender
    assert refused is not None
    for error in ("HTTP 500", "HTTP 302", "ConnectError"):
        with monkeypatch.context() as patched:
            if error == "ConnectError":
                patched.setattr(refused, "_url", "http://127.0.0.1:1/")
            world.deliver()
        row = world.row()
        assert row.status == "WAITING"
        assert row.last_error.startswith(error)
        world.deliver()
        assert world.row().tries == row.tries, "not before its time"
        world.pass_time(row.pause.total_seconds())
    world.deliver()
    posts = world.site.posts
    assert [post.headers["webhook-id"] for post in posts] == [str(world.row().id)] * 3
    assert len({post.body for post in posts}) == 1
    assert [told(post)["type"] for post in posts] == ["job.completed"] * 3
    row = world.row()
    assert (row.status, row.tries, row.last_status, row.last_error) == ("DELIVERED", 4, 204, None)
    world.deliver()
    assert len(world.site.posts) == 3, "what was taken is not sent again"


def test_pauses_grow_and_end_two_hours_after_the_first_try(world: World, logged: list[Any]) -> None:
    job_id = world.end()
    world.site.statuses += [503] * 100
    world.pass_time(86_400)  # the workers were away for a day: the two hours begin with the first try
    tried_at, passed = [], 0.0
    while world.row().status == "WAITING":
        tried_at.append(passed)
        world.deliver()
        row = world.row()
        if row.pause is not None:
            passed += row.pause.total_seconds() + 0.001
            world.pass_time(row.pause.total_seconds() + 0.001)
    pauses = [later - earlier for earlier, later in pairwise(tried_at)]
    assert pauses[0] < 4
    assert all(later > earlier for earlier, later in pairwise(pauses[:8])), "doubled, whatever the jitter"
    assert max(pauses) <= 1.26 * LONGEST_PAUSE_SECONDS
    assert tried_at[-1] == pytest.approx(GIVEN_UP_AFTER_SECONDS, abs=30)
    assert 12 < len(world.site.posts) < 30
    assert (row.status, row.last_status, row.last_error) == ("GIVEN_UP", 503, "HTTP 503")
    world.sweep()
    world.deliver()
    assert len(world.site.posts) == len(tried_at)
    [given_up] = [event for event in logged if event["log_level"] == "error"]
    assert (given_up["event"], given_up["job_id"]) == ("delivery.given_up", str(job_id))


def test_a_worker_that_died_in_between_costs_a_lease_and_tells_late_what_it_did(world: World) -> None:
    world.end()
    with world.sessions.begin() as session:
        dead = deliveries.claim(session, world.row().id, LEASE_SECONDS)
    assert dead is not None
    world.deliver()
    assert world.site.posts == [], "somebody is at it"
    world.pass_time(LEASE_SECONDS + 1)
    world.site.statuses.append(500)
    world.deliver()
    assert world.row().tries == 2
    with world.sessions.begin() as session:
        assert deliveries.failed(session, dead, None, "late", 0) is None, "another's try has come since"
    assert world.row().last_error == "HTTP 500"
    with world.sessions.begin() as session:
        assert deliveries.delivered(session, dead, 200), "that it was taken is a fact, however late it is told"
    world.pass_time(3600)
    world.deliver()
    assert len(world.site.posts) == 1


def test_workers_at_once_post_it_once(world: World) -> None:
    world.end()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(world.deliver) for _ in range(8)]:
            done.result()
    assert len(world.site.posts) == 1
    assert (world.row().status, world.row().tries) == ("DELIVERED", 1)


# --- The sweep


def test_the_sweep_sends_what_is_due_to_one_worker_each(world: World) -> None:
    for _ in range(3):
        world.end(0)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(world.sweep) for _ in range(4)]:
            done.result()
    assert world.waiting() == 3
    world.sweep()
    assert world.waiting() == 3
    world.pass_time(world.settings.resend_seconds + 1)  # the messages are lost
    world.sweep()
    assert world.waiting() == 6


def test_a_site_that_hangs_does_not_hold_every_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "DELIVERIES_AT_ONCE", 2)
    for _ in range(3):
        world.end(0)
    world.sweep()
    world.sweep()
    assert world.waiting() == 2, "two are on their way and not answered yet"
    [(first,)] = world.sql("SELECT id FROM deliveries WHERE sent_at IS NOT NULL ORDER BY created_at LIMIT 1")
    world.webhook.deliver(first)
    world.sweep()
    assert world.waiting() == 3


def test_without_an_address_nothing_is_sent_and_nothing_lost(world: World, logged: list[Any]) -> None:
    world.end(0)
    world.sweep(site_webhook_url=None)
    assert world.waiting() == 0
    elsewhere = SiteWebhook(world.sessions, world.settings.model_copy(update={"site_webhook_url": None}))
    elsewhere.deliver(world.row().id)
    assert [event["event"] for event in logged] == ["delivery.left"]
    assert (world.row().status, world.row().tries) == ("WAITING", 0)
    world.sweep()
    assert world.waiting() == 1


# --- Secrets, and the whole way


def test_secrets_and_the_users_address_stay_out_of_the_log(
    world: World, logged: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    world.end()
    world.site.statuses.append(500)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            world.deliver()
            world.pass_time(10)
    [email] = world.sql("SELECT email FROM users")
    said = f"{logged} {caplog.text} {world.row()}"
    assert [event["event"] for event in logged if "delivery" in event["event"]] == [
        "delivery.postponed",
        "delivery.taken",
    ]
    for secret in (SECRET, OLD_SECRET, "A" * 32, "B" * 32, email[0]):
        assert secret not in said


def test_a_real_worker_tells_the_site(
    running_stack: Callable[..., RunningStack], settings: Settings, site: Receiver
) -> None:
    site.statuses.append(500)
    stack = running_stack(
        env={
            "SITE_WEBHOOK_URL": f"{site.url}/hooks",
            "SITE_WEBHOOK_SECRETS": f'["{SECRET}"]',
            "SITE_WEBHOOK_PRIVATE_ADDRESSES": "true",
        }
    )
    submitted = Person(stack, settings).submit().json()
    first, second = site.wait_for_posts(2, 90)
    assert told(first) == told(second)
    assert (told(second)["type"], told(second)["data"]["id"]) == ("job.completed", submitted["id"])
