"""What must hold when a schedule is over, said without the product's code: plain SQL and the other side's books."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from functools import cache
from io import BytesIO
from itertools import permutations
from math import inf

from PIL import Image

from cli.simulation.database import rows
from cli.simulation.provider import PRICE, Run
from cli.simulation.world import World

SETTLED_WITHIN = timedelta(minutes=10)
_ENDS = ("job.completed", "job.partial", "job.failed", "job.canceled")
_STEPS = {
    "photo.started": ("PENDING", "GENERATING"),
    "photo.retried": ("GENERATING", "PENDING"),
    "photo.stored": ("GENERATING", "STORED"),
    "photo.failed": ("GENERATING", "FAILED"),
}


def violations(world: World) -> list[str]:
    """Every broken promise, as a sentence that begins with its number."""
    checks = (_balances, _credits, _free_retries, _settlements, _payments, _bookings, _time, _objects, _arrows, _keys)
    return world.violations + [found for check in checks for found in check(world)]


def paid_twice_unknowably(world: World) -> int:
    """How many photos were paid for once more because nobody could know of an earlier prediction."""
    return sum(not _knowable(world, earlier, later) for earlier, later in _paid_again(world))


def _balances(world: World) -> Iterator[str]:
    for user, credits, total in rows(
        world.engine,
        "SELECT u.id, u.credits, coalesce(sum(l.amount), 0) FROM users u LEFT JOIN ledger_entries l "
        "ON l.user_id = u.id GROUP BY u.id",
    ):
        if credits != total or credits < 0:
            yield f"I1: user {user} has {credits}, the ledger says {total}"
    for entry, balance, total in rows(
        world.engine,
        "SELECT id, balance_after, sum(amount) OVER (PARTITION BY user_id ORDER BY id) FROM ledger_entries",
    ):
        if balance != total or balance < 0:
            yield f"I1: ledger entry {entry} left a balance of {balance}, the sum was {total}"


def _credits(world: World) -> Iterator[str]:
    for job, status, stored, charges, charged, refunds, refunded in rows(
        world.engine,
        "SELECT j.id, j.status, (SELECT count(*) FROM photos p WHERE p.job_id = j.id AND p.status = 'STORED'), "
        "count(*) FILTER (WHERE l.kind = 'CHARGE'), coalesce(sum(l.amount) FILTER (WHERE l.kind = 'CHARGE'), 0), "
        "count(*) FILTER (WHERE l.kind = 'REFUND'), coalesce(sum(l.amount) FILTER (WHERE l.kind = 'REFUND'), 0) "
        "FROM jobs j LEFT JOIN ledger_entries l ON l.job_id = j.id AND l.user_id = j.user_id GROUP BY j.id",
    ):
        kept = (status == "COMPLETED" and stored == 4) or (status == "CANCELED" and stored > 0)
        fits = {"COMPLETED": stored == 4, "PARTIAL": 0 < stored < 4, "FAILED": stored == 0}.get(status, True)
        back = 0 if kept else 1
        if not fits or (charges, charged, refunds, refunded) != (1, -1, back, back):
            yield f"I2: job {job} is {status} with {stored} photos, charged {charged}, refunded {refunded}"


def _free_retries(world: World) -> Iterator[str]:
    """What ops retried was paid for by one grant, for one job more."""
    for reference, granted, retried in rows(
        world.engine,
        "SELECT l.reference, l.amount, (SELECT count(*) FROM job_events e "
        "  WHERE e.name = 'credit.granted' AND e.data ->> 'reference' = l.reference) "
        "FROM ledger_entries l WHERE l.kind = 'GRANT'",
    ):
        if (granted, retried) != (1, 1):
            yield f"I2: {reference} granted {granted} for {retried} jobs"


def _settlements(world: World) -> Iterator[str]:
    for job, status, count, name, deliveries in rows(
        world.engine,
        "SELECT j.id, j.status, count(e.id), min(e.name), "
        "(SELECT count(*) FROM deliveries d WHERE d.job_id = j.id) "
        "FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id AND e.name = ANY(:ends) GROUP BY j.id",
        ends=list(_ENDS),
    ):
        if count != 1 or name != f"job.{status.lower()}" or deliveries != 1:
            yield f"I3: job {job} is {status}, was settled {count} times ({name}) and is told of {deliveries} times"


def _payments(world: World) -> Iterator[str]:
    for earlier, later in _paid_again(world):
        if _knowable(world, earlier, later):
            yield (
                f"I4: photo {later.order.photo_id} was paid for as {later.prediction.id} at {later.sent_at:.1f} "
                f"although {earlier.prediction.id} was there, sent at {earlier.sent_at:.1f}"
            )


def _paid_again(world: World) -> Iterator[tuple[Run, Run]]:
    """Each prediction that brings a photo, with another one for the same photo that was sent for later."""
    for earlier, later in permutations(world.provider.runs.values(), 2):
        if (
            earlier.order.photo_id == later.order.photo_id
            and earlier.sent_at < later.sent_at
            and earlier.usable_at(later.sent_at)
        ):
            yield earlier, later


def _knowable(world: World, earlier: Run, later: Run) -> bool:
    if earlier.prediction.id in later.known_before:
        return True
    # Time is all that tells a create on its way from one that was lost, and the database's clock measures it.
    return not (earlier.too_late or world.clock.jumped_forward(earlier.sent_at, later.sent_at))


def _bookings(world: World) -> Iterator[str]:
    booked: dict[str, Decimal] = {
        row.prediction_id: row.cost
        for row in rows(world.engine, "SELECT prediction_id, cost FROM attempts WHERE prediction_id IS NOT NULL")
    }
    for run in world.provider.runs.values():
        cost = PRICE if run.billed else Decimal(0)
        found = booked.pop(run.prediction.id, None)
        if found is None and (not run.billed or world.clock.jumped_forward(run.sent_at, inf)):
            continue  # nothing to book, or given up before its time by a clock that jumped
        if found != cost:
            yield f"I4: prediction {run.prediction.id} cost {cost} and is booked as {found}"
    yield from (f"I4: prediction {unknown} is booked and was never made" for unknown in booked)


def _time(world: World) -> Iterator[str]:
    for (job,) in rows(
        world.engine,
        "SELECT id FROM jobs WHERE completed_at IS NULL "
        "OR completed_at > greatest(created_at, CAST(:last_fault AS timestamptz)) + :within",
        last_fault=world.last_fault_at,
        within=SETTLED_WITHIN,
    ):
        yield f"I5: job {job} was not settled within 10 minutes of the last fault"


def _objects(world: World) -> Iterator[str]:
    photos = {
        row[0]
        for row in rows(
            world.engine,
            "SELECT object_key FROM photos WHERE object_key IS NOT NULL "
            "UNION ALL SELECT thumbnail_key FROM photos WHERE thumbnail_key IS NOT NULL",
        )
    }
    kept = rows(world.engine, "SELECT portrait_id FROM jobs WHERE portrait_deleted_at IS NULL")
    portraits = {f"portraits/{row[0]}" for row in kept}
    there = set(world.storage.objects)
    yield from (f"I6: {key} has outlived its job's end" for key in sorted(portraits))
    yield from (f"I6: {key} is there and no row promises it" for key in sorted(there - photos - portraits))
    yield from (f"I6: {key} is promised and not there" for key in sorted((photos | portraits) - there))
    for key in sorted(photos & there):
        if not _is_picture(world.storage.objects[key]):
            yield f"I2: {key} is no picture"


@cache
def _is_picture(body: bytes) -> bool:
    try:
        Image.open(BytesIO(body)).load()
    except OSError:
        return False
    return True


def _arrows(world: World) -> Iterator[str]:
    """Photos move PENDING -> GENERATING -> STORED, FAILED or back; a story told by the events of each."""
    for photo, status, code, names in rows(
        world.engine,
        "SELECT p.id, p.status, p.error_code, "
        "coalesce(array_agg(e.name ORDER BY e.id) FILTER (WHERE e.id IS NOT NULL), '{}') "
        "FROM photos p LEFT JOIN job_events e ON e.photo_id = p.id GROUP BY p.id",
    ):
        state = "PENDING"
        for name in names:
            begins, ends = _STEPS[name]
            # An attempt that the provider did not take is withdrawn, which leaves no event.
            if state != begins and not (name == "photo.started" and state == "GENERATING"):
                yield f"I7: photo {photo} was {state} when {name}"
            state = ends
        # A deadline or a cancel ends photos together with their job, and has no event for each.
        ended_with_job = {"FAILED": "deadline_exceeded", "CANCELED": "canceled"}.get(status)
        if state != status and (state not in ("PENDING", "GENERATING") or code is None or code != ended_with_job):
            yield f"I7: photo {photo} is {status}, its story ends in {state}"
    for job, names in rows(
        world.engine,
        "SELECT j.id, coalesce(array_agg(e.name ORDER BY e.id) FILTER (WHERE e.name LIKE 'job.%' OR "
        "e.name LIKE 'photo.%'), '{}') FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id GROUP BY j.id",
    ):
        story = [name for name in names if name != "job.retried"]
        if story[:1] != ["job.accepted"] or story[-1] not in _ENDS:
            yield f"I7: the story of job {job} goes from {story[:1]} to {story[-1:]}"


def _keys(world: World) -> Iterator[str]:
    """Each key made one job at the most, and every answer to it was that job."""
    for request in world.people.requests:
        made = {
            row[0]
            for row in rows(
                world.engine,
                "SELECT id FROM jobs WHERE user_id = :user AND idempotency_key = :key",
                user=request.user_id,
                key=request.key,
            )
        }
        if len(made) > 1 or not request.answers <= made:
            yield f"I8: the key {request.key} was answered with {request.answers} and made {made}"
