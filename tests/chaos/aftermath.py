"""After the storm: what has time left is put forward, the books are waited for, and everything is judged."""

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import psycopg

from cli.vendors import BUCKET
from tests.chaos import checker
from tests.chaos.checker import Books, Claim, Row, Verdict, Violation
from tests.chaos.couples import Couple
from tests.chaos.recovery import recovery_seconds
from tests.chaos.storm import Course, Storm
from tests.chaos.world import World

SETTLE_SECONDS = 120.0


@dataclass
class Judgement:
    """What came of one storm, over one system."""

    jobs: dict[str, int]  # by status; those that have not ended by the status they have
    accepted: int
    lost: int
    stuck: int
    paid_twice: int
    credits_wrong: int
    untold: int  # jobs that were charged, and that no answer ever named
    unknowable: int  # slots paid for twice where the provider let nobody know
    violations: list[Violation]  # every one, those that are counted above too
    recovery: dict[int, float] = field(default_factory=dict)  # seconds, by seed


def judge_cuggu(world: World, storm: Storm, courses: Sequence[Course]) -> Judgement:
    """Judge our own system: the checker over everything, and then `cuggu audit` of the product itself."""
    claims = claims_of(course.couple for course in courses)
    rows, predictions, verdict = judge_books(world, claims, storm.tend_until)
    verdict.violations += [*storm.glimpsed, *stuck_in(courses)]
    jobs: defaultdict[str, int] = defaultdict(int)
    for job in rows.jobs:
        jobs[job["status"]] += 1
    return Judgement(
        jobs=dict(jobs),
        accepted=sum(bool(claim.job_ids) for claim in claims),
        lost=verdict.count("lost"),
        stuck=verdict.count("stuck"),
        paid_twice=verdict.count("I4"),
        credits_wrong=verdict.count("I1", "I2"),
        untold=verdict.count("untold"),
        unknowable=len(verdict.unknowable),
        violations=verdict.violations,
        recovery=recovery_of(courses, _made(rows, predictions)),
    )


def claims_of(couples: Iterable[Couple]) -> list[Claim]:
    """What these couples were told."""
    return [
        Claim(couple.seed, couple.email, receipt.key, tuple(receipt.job_ids), tuple(receipt.complaints))
        for couple in couples
        for receipt in couple.receipts
    ]


def judge_books(
    world: World,
    claims: Sequence[Claim],
    tend_until: Callable[[Callable[[], bool], float], bool],
    *,
    photos_max: int | None = None,
) -> tuple[checker.Rows, Sequence[Row], Verdict]:
    """Rows, the provider's predictions, and what the checker and `cuggu audit` say of them once all is settled.

    `tend_until` looks after the world until a condition holds, for so many seconds at most; whether it did.
    `photos_max`: so many stored photos are decoded, drawn by lot; None: all of them.
    """
    settled = tend_until(lambda: _settled(world), SETTLE_SECONDS)
    rows = checker.read_rows(world.database_url)
    predictions = predictions_of(world)
    objects = objects_of(world)
    verdict = checker.judge(rows, Books(predictions, objects), claims)
    keys = [photo["object_key"] for photo in rows.photos if photo["object_key"] in objects]
    for key in keys if photos_max is None else random.sample(keys, min(photos_max, len(keys))):
        verdict.violations += checker.judge_photo(
            key, world.vendors.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        )
    if not settled:
        verdict.violations.append(Violation("costs", "the whole", f"books were still open after {SETTLE_SECONDS:g} s"))
    verdict.violations += _audit(world)
    return rows, predictions, verdict


def glance_at_cuggu(world: World) -> list[Violation]:
    """What rows must say at any moment, jobs in work included."""
    try:
        return checker.judge_rows(checker.read_rows(world.database_url))
    except psycopg.OperationalError:  # it is just being killed; there is another wave, and the end
        return []


def _settled(world: World) -> bool:
    """Whether nothing is left to be closed, stopped or deleted; what has its time only later is put forward to now.

    All jobs have ended, so nobody is about to put an object, and no create call is on its way: an object that is
    loose now stays loose, and need not be waited for for ten minutes; nor need the late look for lost predictions.
    """
    try:
        with psycopg.connect(world.database_url, connect_timeout=3) as connection:
            left = connection.execute(
                "SELECT (SELECT count(*) FROM loose_objects) + "
                "(SELECT count(*) FROM attempts WHERE close_due_at IS NOT NULL OR outcome = 'OPEN')"
            ).fetchone()
            connection.execute(
                "UPDATE loose_objects SET delete_after = now(), again_after = NULL "
                "WHERE delete_after > now() + interval '2 min' OR again_after IS NOT NULL"
            )
            connection.execute("UPDATE attempts SET close_due_at = now() WHERE close_due_at > now() + interval '31 s'")
    except psycopg.OperationalError:
        return False
    running = [entry for entry in predictions_of(world) if entry["completed_at"] is None]
    return left == (0,) and not running


def predictions_of(world: World) -> list[Row]:
    """Every prediction in the provider's own books."""
    answer = httpx.get(
        f"{world.vendors.replicate_url}/_books", params={"part": "predictions"}, timeout=30, trust_env=False
    )
    predictions: list[Row] = answer.raise_for_status().json()["predictions"]
    return predictions


def objects_of(world: World) -> dict[str, int]:
    """The bucket's whole listing: sizes in bytes by key."""
    pages = world.vendors.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


def stuck_in(courses: Sequence[Course]) -> list[Violation]:
    """Jobs that had not ended when the patience was over, whatever became of them later."""
    return [
        Violation("stuck", str(job), "it did not end in time", course.couple.email)
        for course in courses
        if course.given_up
        for job in course.couple.job_ids
        if job not in course.ends
    ]


def recovery_of(courses: Sequence[Course], made: Mapping[UUID, Sequence[Row]]) -> dict[int, float]:
    """Seconds by seed; `made` are the predictions that were made for each job."""
    recovered = {}
    for course in courses:
        seconds = recovery_seconds(course, [entry for job in course.couple.job_ids for entry in made.get(job, ())])
        if seconds is not None:
            recovered[course.schedule.seed] = seconds
    return recovered


def _made(rows: checker.Rows, predictions: Sequence[Row]) -> Mapping[UUID, Sequence[Row]]:
    job_of_photo = {str(photo["id"]): photo["job_id"] for photo in rows.photos}
    made: defaultdict[UUID, list[Row]] = defaultdict(list)
    for entry in predictions:
        if (job_id := job_of_photo.get(checker.meant_for(entry)[0])) is not None:
            made[job_id].append(entry)
    return made


def _audit(world: World) -> list[Violation]:
    """`cuggu audit` as ops would call it, straight to the servers."""
    environment = world.stack.env | {"DATABASE_URL": world.database_url}
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import app; app()", "audit", "--json"],
        env=environment, cwd=world.stack.data_dir, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode == 0:
        return []
    try:
        checks = json.loads(done.stdout)["checks"]
    except ValueError:
        return [Violation("audit", "the whole", done.stderr[-500:])]
    return [
        Violation(f"audit {check['promise']}", offence["id"], offence["says"])
        for check in checks
        for offence in check["offences"] or [{"id": check["table"], "says": str(check["unproved"])}]
        if not check["proved"]
    ]
