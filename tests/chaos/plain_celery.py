"""The same schedules over the plain Celery version of the product (`bench/peers/plain_celery`), and its judge.

Its users have no Idempotency-Key: who got no answer presses the button again, as people do, and may have ordered twice.
A job without an end is stuck once the patience is over; Redis would deliver its message again after an hour.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg

from tests.chaos.aftermath import Judgement, objects_of, predictions_of, recovery_of, stuck_in
from tests.chaos.checker import Row, Violation
from tests.chaos.couples import Door
from tests.chaos.storm import Course, Storm
from tests.chaos.systems import End
from tests.chaos.world import World

MODULE = "bench.peers.plain_celery"
ENDED = ("COMPLETED", "FAILED")
PHOTOS = 4
SIGNUP_CREDITS = 5


@dataclass
class PlainDoor:
    url: str
    idempotent = False
    cancels = False

    def headers(self, email: str) -> Mapping[str, str]:
        return {"X-User": email}

    def accepted(self, answer: httpx.Response) -> UUID | None:
        return UUID(answer.json()["id"]) if answer.status_code == httpx.codes.ACCEPTED else None


class PlainCelery:
    """A `System`. It gets as many processes as there can be jobs at once, so that none waits for its turn."""

    name = "plain_celery"
    processes: tuple[str, ...] = ("api", "worker", "worker-2")
    commands: Mapping[str, tuple[str, ...]] = {
        "api": ("python", "-m", f"{MODULE}.api"),
        "worker": ("celery", "-A", f"{MODULE}.tasks:app", "worker", "-n", "worker@%h"),
    }

    def prepare(self, database_url: str) -> None:
        """Its API makes the tables."""

    def environment(self) -> Mapping[str, str]:
        return {"SIGNUP_CREDITS": str(SIGNUP_CREDITS), "WORKER_CONCURRENCY": "8"}

    def door(self, api_url: str) -> Door:
        return PlainDoor(api_url)

    def ends(self, database_url: str, job_ids: Sequence[UUID]) -> Mapping[UUID, End]:
        with psycopg.connect(database_url, connect_timeout=2) as connection:
            rows = connection.execute(
                "SELECT id, status, extract(epoch FROM ended_at)::float8 FROM peer_jobs "
                "WHERE id = ANY(%s) AND status = ANY(%s)",
                (list(job_ids), list(ENDED)),
            ).fetchall()
        return {job_id: End(status, at) for job_id, status, at in rows}


def judge_plain_celery(world: World, _storm: Storm, courses: Sequence[Course]) -> Judgement:
    """Its jobs, credits and payments, counted by the same words as ours."""
    with psycopg.connect(world.database_url) as connection:
        jobs = connection.execute("SELECT id, email, status FROM peer_jobs").fetchall()
        users = connection.execute("SELECT email, credits FROM peer_users").fetchall()
        keys = connection.execute("SELECT job_id, object_key FROM peer_photos").fetchall()
    objects, predictions = objects_of(world), predictions_of(world)
    whole = Counter(job_id for job_id, key in keys if key in objects)
    told = {job: course.couple.email for course in courses for job in course.couple.job_ids}
    rows = {job_id for job_id, _, _ in jobs}
    violations = stuck_in(courses)
    violations += [Violation("lost", str(job), "there is no row of it", told[job]) for job in told.keys() - rows]
    violations += [
        Violation("untold", str(job), f"{status}, and no answer named it", email)
        for job, email, status in jobs
        if job not in told and status != "FAILED"  # the credit came back
    ]
    kept: Counter[str] = Counter()
    for job, email, status in jobs:
        # A job that is stuck has taken its credit; it is counted as stuck, and not again as a wrong credit.
        kept[email] += status not in ENDED or (status == "COMPLETED" and whole[job] == PHOTOS)
    violations += [
        Violation("credits", email, f"has {credits} credits, should have {SIGNUP_CREDITS - kept[email]}", email)
        for email, credits in users
        if credits != SIGNUP_CREDITS - kept[email]
    ]
    made: defaultdict[UUID, list[Row]] = defaultdict(list)
    for entry in predictions:
        made[_job_of(entry)].append(entry)
    for job, entries in made.items():
        # The pose at the end of the prompt tells the photo (its README).
        paid = Counter(entry["input"]["prompt"] for entry in entries if Decimal(entry["cost_usd"]) > 0)
        violations += [
            Violation("I4", f"{job} {prompt[-20:]}", f"paid for {count} times", told.get(job, ""))
            for prompt, count in paid.items()
            if count > 1
        ]

    def count(promise: str) -> int:
        return len({violation.about for violation in violations if violation.promise == promise})

    return Judgement(
        jobs=dict(Counter(status for _, _, status in jobs)),
        accepted=len(told),
        lost=count("lost"),
        stuck=count("stuck"),
        paid_twice=count("I4"),
        credits_wrong=count("credits"),
        untold=count("untold"),
        unknowable=0,
        violations=violations,
        recovery=recovery_of(courses, made),
    )


def _job_of(prediction: Row) -> UUID:
    """Whose portrait it was made of: `portraits/JOB.jpg`."""
    return UUID(urlsplit(prediction["input"]["input_images"][0]).path.rpartition("/")[2].removesuffix(".jpg"))
