"""P6: how much longer than the provider itself a user waits, from sending the portrait to holding the last address."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg

from bench.faces import azure_face
from bench.harness import Line, Measured, Must, RoundVoid, Void, percentile
from bench.provider import Provider, provider, provider_and_bucket
from bench.world import World, token
from tests.photos import one_face

JOBS, QUICK_JOBS = 40, 4
PEER_JOBS = 8
EVERY_SECONDS = 0.7  # one user after another, so that a dozen are on their way at once
PROVIDER_SECONDS = 12.0
SPREAD = 0.2  # no two predictions take as long; P5 has the same
PATIENCE_SECONDS = 90.0
POLL_SECONDS = 2.0
FACE = {"left": 178, "top": 63, "width": 90, "height": 113}  # that of `one_face`

Follow = Callable[[httpx.Client, dict[str, Any]], None]


def measure(world: World) -> Measured:
    """What is left of each user's wait once the time is taken off in which the provider was at work for this job."""
    dials = {"predict_seconds": PROVIDER_SECONDS - 1, "start_seconds": 1}
    jobs = QUICK_JOBS if world.quick else JOBS
    with provider(**dials, predict_spread=SPREAD) as doubled:
        ours = _ours(world, doubled, jobs)
    with provider(**dials) as doubled:
        together = _ours(world, doubled, jobs // 4)
    with provider_and_bucket(world, **dials) as doubled:
        peer = _plain(world, doubled, 2 if world.quick else PEER_JOBS)
    share = [seconds / PROVIDER_SECONDS for seconds in ours]
    return Measured(
        "Waiting for us, beyond the provider's own time",
        [
            Line("p50", "end to end beyond 12 s at the provider, median, %", 100 * percentile(share, 0.5),
                 Must("<=", 1), _ms(ours, 0.5), _ms(peer, 0.5)),
            Line("p95", "the same, p95, %", 100 * percentile(share, 0.95), Must("<=", 3), _ms(ours, 0.95),
                 _ms(peer, 0.95)),
            Line("together", "the same, median, if all four are ready in one moment, %",
                 100 * percentile(together, 0.5) / PROVIDER_SECONDS, None, _ms(together, 0.5)),
        ],
        raw={"ours_seconds": ours, "ours_together_seconds": together, "plain_celery_seconds": peer},
        bars={"ours, events": 1000 * percentile(ours, 0.5), "Celery + SDK + poll": 1000 * percentile(peer, 0.5)},
        unit="milliseconds beyond the provider's time, median",
    )  # fmt: skip


def _ours(world: World, doubled: Provider, jobs: int) -> list[float]:
    with azure_face(FACE) as face_checker:  # as in production; it takes no time of its own here
        environment = {**world.servers(), **doubled.environment, **face_checker}
        return _beyond_of(world, doubled, environment, jobs)


def _beyond_of(world: World, doubled: Provider, environment: Mapping[str, str], jobs: int) -> list[float]:
    with world.ours(environment, ("api", "worker", "beat")) as stack:

        def follow(http: httpx.Client, job: dict[str, Any]) -> None:
            with http.stream("GET", f"/jobs/{job['id']}/events") as events:
                for line in events.iter_lines():
                    if line.startswith("data:") and '"eta_seconds"' in line:
                        if json.loads(line[5:])["status"] != "COMPLETED":
                            raise RoundVoid(line)
                        return
            raise RoundVoid("the events ended before the job")

        users = [{"Authorization": f"Bearer {token(f'user{number}@bench.example')}"} for number in range(jobs + 1)]
        waits = _all(stack.api_url, users, follow)

    def portrait_of(run: Mapping[str, Any]) -> str:
        return str(run["webhook"]).partition("photo=")[2][:36]

    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        job_of = dict(connection.execute("SELECT p.id::text, p.job_id FROM photos p").fetchall())
    runs = [(job_of.get(portrait_of(run)), run) for run in doubled.double.book("predictions")]
    return _beyond(doubled, waits, runs)


def _plain(world: World, doubled: Provider, jobs: int) -> list[float]:
    """A process of the pool for each job; its client asks every two seconds, as is usual."""
    environment = {**world.servers(migrated=False), **doubled.environment}
    with (
        world.peer("plain_celery.api", environment) as api,
        world.celery("bench.peers.plain_celery.tasks:app", environment, "-c", str(jobs)),
    ):

        def follow(http: httpx.Client, job: dict[str, Any]) -> None:
            until = time.monotonic() + PATIENCE_SECONDS
            while (status := http.get(f"/jobs/{job['id']}").raise_for_status().json()["status"]) != "COMPLETED":
                if status == "FAILED" or time.monotonic() > until:
                    raise RoundVoid(f"a job of plain Celery is {status}")
                time.sleep(POLL_SECONDS)

        waits = _all(api.url, [{"X-User": f"user{number}@bench.example"} for number in range(jobs + 1)], follow)

    def job_of(run: Mapping[str, Any]) -> UUID:
        return UUID(urlsplit(run["input"]["input_images"][0]).path.rpartition("/")[2].removesuffix(".jpg"))

    return _beyond(doubled, waits, [(job_of(run), run) for run in doubled.double.book("predictions")])


def _all(url: str, users: Sequence[dict[str, str]], follow: Follow) -> dict[UUID, float]:
    """Each user's wait in seconds, by job. The first one warms everything up and is left out."""
    waits: dict[UUID, float] = {}
    errors: list[BaseException] = []

    def one(headers: dict[str, str], *, counts: bool) -> None:
        try:
            with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as http:
                began = time.monotonic()
                files = {"image": ("me.jpg", one_face(), "image/jpeg")}
                answer = http.post("/jobs", files=files, data={"style": "CLASSIC"})
                if answer.status_code != httpx.codes.ACCEPTED:
                    raise RoundVoid(answer.text)
                follow(http, answer.json())
                if counts:
                    waits[UUID(answer.json()["id"])] = time.monotonic() - began
        except (RoundVoid, httpx.HTTPError) as error:
            errors.append(error)

    one(users[0], counts=False)
    running = []
    for headers in users[1:]:
        running.append(threading.Thread(target=one, args=(headers,), kwargs={"counts": True}))
        running[-1].start()
        time.sleep(EVERY_SECONDS)
    for thread in running:
        thread.join()
    if errors:
        raise Void(f"{len(errors)} users met an error: {errors[0]!r}")
    return waits


def _beyond(
    doubled: Provider, waits: Mapping[UUID, float], runs: Sequence[tuple[UUID | None, Mapping[str, Any]]]
) -> list[float]:
    return [
        seconds - doubled.busy_seconds([run for job, run in runs if job == job_id]) for job_id, seconds in waits.items()
    ]


def _ms(seconds: Sequence[float], share: float) -> str:
    return f"{1000 * percentile(seconds, share):,.0f} ms"
