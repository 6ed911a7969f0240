"""Submissions under Idempotency-Keys through the real application, in any order and two at once: I8."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Engine, text

from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, serve
from tests.state_machines import run

SIGNUP_CREDITS = 3


class Request(NamedTuple):
    picture: str
    style: str
    role: str | None


PICTURES = {"one": pictures.one_face(), "another": pictures.palette_with_transparency(), "faceless": pictures.no_face()}
FIRST = Request("one", "CLASSIC", None)
requests = st.sampled_from(
    [FIRST, Request("one", "MODERN", None), Request("one", "CLASSIC", "BRIDE"), Request("another", "CLASSIC", None)]
)
users = st.sampled_from(["ann", "bob"])
keys = st.sampled_from(["key-1", "key-2"])


@dataclass
class Person:
    client: Client
    jobs: dict[str, bool] = field(default_factory=dict)  # whether it was canceled
    keys: dict[str, tuple[Request, str]] = field(default_factory=dict)  # what was asked under it, and the job

    @property
    def balance(self) -> int:
        return SIGNUP_CREDITS - sum(not canceled for canceled in self.jobs.values())


class Site:
    """The application of this test."""

    def __init__(self, runner: asyncio.Runner, http: httpx.AsyncClient, settings: Settings, engine: Engine) -> None:
        self.runner, self.http, self.settings, self.engine = runner, http, settings, engine

    def new_client(self, name: str) -> Client:
        return Client(self.http, self.settings, f"{name}-{uuid4().hex}@example.com")

    def submit(self, client: Client, key: str | None, *wanted: Request) -> list[httpx.Response]:
        """All at once, each as a request of its own."""
        headers = {"Idempotency-Key": key} if key else {}

        async def together() -> list[httpx.Response]:
            return await asyncio.gather(
                *(client.submit(PICTURES[it.picture], it.style, it.role, **headers) for it in wanted)
            )

        return self.runner.run(together())


class Submissions(RuleBasedStateMachine):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.people = {name: Person(site.new_client(name)) for name in ("ann", "bob")}

    @rule(name=users, key=st.none() | keys, request=requests)
    def submit(self, name: str, key: str | None, request: Request) -> None:
        person = self.people[name]
        [answer] = self.site.submit(person.client, key, request)
        if key in person.keys:
            self.answers_as_before(answer, person, key, request)
        elif person.balance == 0:
            assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_credits")
        else:
            self.accepted(answer, person, key, request)

    @rule(name=users, key=keys, other=requests)
    def submit_two_at_once(self, name: str, key: str, other: Request) -> None:
        """One of them is accepted under a new key, and the other is answered as if it had come later."""
        person, wanted = self.people[name], (FIRST, other)
        answers = self.site.submit(person.client, key, *wanted)
        if key not in person.keys and person.balance == 0:
            assert [answer.status_code for answer in answers] == [402, 402]
            return
        if key not in person.keys:
            first = [answer.status_code for answer in answers].index(202)
            self.accepted(answers[first], person, key, wanted[first])
            # The last credit may have gone between the other's two looks: then it is told that there is none left.
            if answers[1 - first].status_code == 402:
                assert person.balance == 0
                return
            self.answers_as_before(answers[1 - first], person, key, wanted[1 - first])
            return
        for answer, request in zip(answers, wanted, strict=True):
            self.answers_as_before(answer, person, key, request)

    @rule(name=users, key=keys)
    def submit_what_is_refused(self, name: str, key: str) -> None:
        """It takes neither credit nor key."""
        person = self.people[name]
        [answer] = self.site.submit(person.client, key, Request("faceless", "CLASSIC", None))
        expected = 409 if key in person.keys else 402 if person.balance == 0 else 400
        assert answer.status_code == expected

    @rule(name=users)
    def cancel(self, name: str) -> None:
        """A canceled job keeps its key."""
        person = self.people[name]
        job_id = next((job_id for job_id, canceled in person.jobs.items() if not canceled), None)
        if job_id is not None:
            sent = person.client.http.post(f"/jobs/{job_id}/cancel", headers=person.client.headers)
            assert self.site.runner.run(sent).json()["status"] == "CANCELED"
            person.jobs[job_id] = True

    def accepted(self, answer: httpx.Response, person: Person, key: str | None, request: Request) -> None:
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert job["id"] not in {job_id for other in self.people.values() for job_id in other.jobs}
        person.jobs[job["id"]] = False
        if key is not None:
            person.keys[key] = (request, job["id"])
        assert job["remaining_credits"] == person.balance

    def answers_as_before(self, answer: httpx.Response, person: Person, key: str, request: Request) -> None:
        earlier, job_id = person.keys[key]
        if request != earlier:
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
            return
        assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (200, "true")
        assert answer.json()["id"] == job_id
        assert answer.json()["status"] == ("CANCELED" if person.jobs[job_id] else "QUEUED")

    @invariant()
    def every_job_was_asked_for_and_paid_once(self) -> None:
        with self.site.engine.connect() as connection:
            for person in self.people.values():
                rows = connection.execute(
                    text(
                        "SELECT u.credits, j.id, j.status = 'CANCELED' AS canceled, j.idempotency_key FROM users u "
                        "LEFT JOIN jobs j ON j.user_id = u.id WHERE u.email = :email"
                    ),
                    {"email": person.client.email},
                ).all()
                assert {str(row.id): row.canceled for row in rows if row.id} == person.jobs
                assert {row.credits for row in rows} <= {person.balance}
                by_key = {row.idempotency_key: str(row.id) for row in rows if row.idempotency_key}
                assert by_key == {key: job_id for key, (_, job_id) in person.keys.items()}


@pytest.fixture
def site(settings: Settings, engine: Engine) -> Iterator[Site]:
    unlimited = {"signup_credits": SIGNUP_CREDITS, "submissions_per_window": 100_000, "uploads_per_window": 100_000}
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        generous = settings.model_copy(update=unlimited)
        yield Site(runner, runner.run(serve(stack, generous)), generous, engine)
        runner.run(stack.aclose())


@pytest.mark.timeout(900)  # a failure is shrunk for up to five minutes
def test_a_key_means_one_request_and_one_job(site: Site) -> None:
    run(Submissions, site, examples=30, steps=15)
