"""Two users and every route there is: nobody sees or moves what is another's, and a new route must say how (I9).

`ROUTES` has a word for each method of each route. A route that it does not know fails the test.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from starlette.routing import BaseRoute, Route

from shared.settings import Settings
from tests import photos as pictures
from tests.api_client import Client, application, finish, refused

pytestmark = pytest.mark.anyio

OTHERS = "names a thing of its owner's: anybody else gets 404, as for one that never was"
OWN = "tells or moves what is the caller's, and names nothing"
OPEN = "tells everybody the same"
SECRET = "asks for no token: its address is a secret of its own"
SIGNED = "believes its sender's signature and nobody's token"
SERVICE = "asks for another system's token: a user's is none"
STAFF = "is the staff's: to anybody else there is nothing"

ROUTES: dict[str, str] = {
    "POST /jobs": OWN,
    "GET /jobs": OWN,
    "GET /jobs/{job_id}": OTHERS,
    "GET /jobs/{job_id}/events": OTHERS,
    "PUT /jobs/{job_id}/selection": OTHERS,
    "POST /jobs/{job_id}/cancel": OTHERS,
    "DELETE /jobs/{job_id}": OTHERS,
    "GET /jobs/{job_id}/photos.zip": OTHERS,
    "GET /media/portraits/{portrait_id}": SECRET,
    "GET /media/{photo_id}": SECRET,
    "GET /media/{photo_id}/thumbnail": SECRET,
    "GET /me": OWN,
    "DELETE /me": OWN,
    "GET /me/credits": OWN,
    "GET /me/export": OWN,
    "POST /session": OPEN,
    "DELETE /session": OPEN,
    "GET /styles": OPEN,
    "GET /consent": OPEN,
    "POST /api/ai/generate": OWN,
    "GET /api/ai/generations": OWN,
    "POST /api/ai/select": OTHERS,
    "POST /webhooks/replicate": SIGNED,
    "POST /credits/grants": SERVICE,
    "GET /admin": STAFF,
    "GET /admin/admin.css": STAFF,
    "GET /admin/users": STAFF,
    "GET /admin/users/{user_id}": STAFF,
    "POST /admin/users/{user_id}/grant": STAFF,
    "GET /admin/jobs/{job_id}": STAFF,
    "POST /admin/jobs/{job_id}/retry": STAFF,
    "POST /admin/jobs/{job_id}/cancel": STAFF,
    "POST /admin/pause": STAFF,
    "POST /admin/resume": STAFF,
    "GET /admin/actions": STAFF,
    "GET /admin/export/ledger.csv": STAFF,
    "GET /admin/export/jobs.csv": STAFF,
    "GET /admin/export/actions.csv": STAFF,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": OPEN,
    "GET /": OPEN,
    "GET /studio/{path:path}": OPEN,
    "GET /openapi.json": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /redoc": OPEN,
}


@dataclass(frozen=True)
class Owner:
    """A user with a finished job, and everything of theirs that nobody else may be told."""

    client: Client
    job: dict[str, Any]
    secrets: frozenset[str]

    def untold(self, answer: httpx.Response) -> None:
        told = answer.text + str(answer.headers)
        assert [secret for secret in self.secrets if secret in told] == []


@pytest.fixture
async def owner(client: Client, engine: Engine, settings: Settings) -> Owner:
    job = (await client.submit(role="BRIDE", **{"Idempotency-Key": f"key-{uuid4()}"})).json()
    finish(engine, settings, job)
    ids = [client.email, job["id"], (await client.get("/me")).json()["id"], job["portrait_url"].rpartition("/")[2]]
    with engine.connect() as connection:
        ids += connection.execute(text("SELECT idempotency_key FROM jobs")).scalars()
        ids += connection.execute(text("SELECT object_key FROM photos")).scalars()
    done = (await client.get(f"/jobs/{job['id']}")).json()
    return Owner(client, done, frozenset([*ids, *(photo["id"] for photo in job["photos"])]))


def methods(routes: list[BaseRoute]) -> Iterator[str]:
    """Every method of every route; HEAD is GET without a body."""
    for route in routes:
        included = getattr(route, "original_router", None)  # FastAPI's own word for what `include_router` was given
        if included is not None:
            yield from methods(included.routes)
            continue
        assert isinstance(route, Route), f"{route} is of a kind that this test does not know"
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield f"{method} {route.path}"


def filled(path: str, job: dict[str, Any]) -> str:
    ids = {
        "job_id": job["id"],
        "photo_id": job["photos"][0]["id"],
        "portrait_id": str(uuid4()),
        "path:path": "x",
        "user_id": str(uuid4()),
    }
    return re.sub(r"\{([\w:]+)\}", lambda found: str(ids[found[1]]), path)


def bodies(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    photo = job["photos"][0]
    form = {"files": {"image": ("a.jpg", pictures.not_an_image(), "image/jpeg")}, "data": {"style": "CLASSIC"}}
    return {
        "PUT /jobs/{job_id}/selection": {"json": {"photo_id": photo["id"]}},
        "POST /api/ai/select": {"json": {"generationId": job["id"], "selectedUrl": f"/media/{photo['id']}"}},
        "POST /jobs": form,
        "POST /api/ai/generate": form,
        "DELETE /me": {"params": {"confirm": str(uuid4())}},
        "POST /session": {"json": {"email": "nobody@example.com"}},
        "POST /credits/grants": {"json": {"email": "nobody@example.com", "amount": 1, "reference": "order-1"}},
    }


def calls(
    http: httpx.AsyncClient, job: dict[str, Any], wanted: str
) -> Iterator[tuple[str, Callable[[dict[str, str]], Awaitable[httpx.Response]]]]:
    """Each route of this kind, as a call that lacks only its headers."""
    for route, kind in ROUTES.items():
        if kind == wanted:
            method, path = route.split()
            options = bodies(job).get(route, {})

            def call(
                headers: dict[str, str], method: str = method, path: str = path, options: dict[str, Any] = options
            ) -> Awaitable[httpx.Response]:
                return http.request(method, filled(path, job), headers=headers, **options)

            yield route, call


async def test_every_route_has_its_word(http: httpx.AsyncClient) -> None:
    app: FastAPI = application(http)
    assert sorted(methods(app.routes)) == sorted(ROUTES)


async def test_what_is_anothers_is_not_there(owner: Owner, stranger: Client, http: httpx.AsyncClient) -> None:
    never = {**owner.job, "id": str(uuid4())}
    for (route, call), (_, like_it) in zip(calls(http, owner.job, OTHERS), calls(http, never, OTHERS), strict=True):
        answer, other = await call(stranger.headers), await like_it(stranger.headers)
        assert (answer.status_code, other.status_code) == (404, 404), route
        assert answer.json() == other.json(), route
        owner.untold(answer)
        assert (await call({})).status_code == 401, route
    after = (await owner.client.get(f"/jobs/{owner.job['id']}")).json()
    assert after == owner.job


async def test_one_is_told_of_oneself_alone(owner: Owner, stranger: Client, http: httpx.AsyncClient) -> None:
    for route, call in calls(http, owner.job, OWN):
        answer = await call(stranger.headers)
        assert answer.status_code in (200, 400), route
        owner.untold(answer)
        assert (await call({})).status_code == 401, route
    assert await owner.client.balance() == 1


async def test_open_routes_tell_nobody_of_anybody(owner: Owner, stranger: Client, http: httpx.AsyncClient) -> None:
    for wanted in (OPEN, SIGNED):
        for _, call in calls(http, owner.job, wanted):
            for headers in ({}, stranger.headers):
                owner.untold(await call(headers))


async def test_what_is_for_staff_or_services_is_for_no_user(
    owner: Owner, stranger: Client, http: httpx.AsyncClient
) -> None:
    for wanted, status in ((STAFF, 404), (SERVICE, 401)):
        for route, call in calls(http, owner.job, wanted):
            for headers in ({}, stranger.headers, owner.client.headers):
                answer = await call(headers)
                assert answer.status_code == status, route
                owner.untold(answer)


async def test_another_ones_things_cannot_be_used_in_ones_own(
    owner: Owner, stranger: Client, http: httpx.AsyncClient
) -> None:
    again = {"portrait_of": (None, owner.job["id"]), "style": (None, "MODERN")}
    refused(await http.post("/jobs", files=again, headers=stranger.headers), 404, "not_found")
    mine = (await stranger.submit()).json()
    theirs = {"photo_id": owner.job["photos"][0]["id"]}
    answer = await http.put(f"/jobs/{mine['id']}/selection", json=theirs, headers=stranger.headers)
    refused(answer, 404, "not_found")
    page = (await owner.client.get("/jobs?limit=1")).json()
    assert page["next_cursor"] is None
    # The same key of another person is another key.
    key = {"Idempotency-Key": next(secret for secret in owner.secrets if secret.startswith("key-"))}
    other = (await stranger.submit(**key)).json()
    assert other["id"] not in owner.secrets


async def test_a_pictures_address_is_a_secret_that_nothing_else_gives_away(
    owner: Owner, http: httpx.AsyncClient
) -> None:
    job = owner.job
    portrait_id = UUID(job["portrait_url"].rpartition("/")[2])
    photo_ids = [UUID(photo["id"]) for photo in job["photos"]]
    assert len({portrait_id, UUID(job["id"]), *photo_ids}) == 6
    # Random ones: nothing of a clock, a counter or a name is in them, so nobody finds one from the others.
    assert {picture.version for picture in (portrait_id, *photo_ids)} == {4}
    for address in (job["portrait_url"], *(photo[url] for photo in job["photos"] for url in ("url", "thumbnail_url"))):
        assert (await http.get(address)).status_code == 200
    for known in (UUID(job["id"]), *photo_ids):
        refused(await http.get(f"/media/portraits/{known}"), 404, "not_found")
    for known in (UUID(job["id"]), portrait_id):
        refused(await http.get(f"/media/{known}"), 404, "not_found")
        refused(await http.get(f"/media/{known}/thumbnail"), 404, "not_found")
    assert json.dumps(job).count(str(portrait_id)) == 1
