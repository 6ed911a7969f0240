"""What must hold when a schedule is over, said without the product's code: plain SQL and the other side's books."""

from decimal import Decimal
from io import BytesIO

from PIL import Image
from sqlalchemy import Connection, text

from cli.simulation.world import World

SETTLED_WITHIN_SECONDS = 600.0
ENDS = ("job.completed", "job.partial", "job.failed", "job.canceled")


def violations(world: World) -> list[str]:
    """Every broken promise, as a sentence that begins with its number."""
    found = [*world.violations, *world.provider.violations]
    with world.engine.connect() as connection:
        for check in (_money, _settlements, _payments, _objects, _arrows, _time):
            found += check(world, connection)
    return found


def _money(_world: World, connection: Connection) -> list[str]:
    found = []
    for user, credits, total in connection.execute(
        text("SELECT u.id, u.credits, coalesce(sum(l.amount), 0) FROM users u LEFT JOIN ledger_entries l ON "
             "l.user_id = u.id GROUP BY u.id")
    ):  # fmt: skip
        if credits != total or credits < 0:
            found.append(f"I1: user {user} has {credits}, the ledger says {total}")
    for job, status, stored, charges, refunds in connection.execute(
        text(
            "SELECT j.id, j.status, (SELECT count(*) FROM photos p WHERE p.job_id = j.id AND p.status = 'STORED'), "
            "(SELECT count(*) FROM ledger_entries l WHERE l.job_id = j.id AND l.kind = 'CHARGE'), "
            "(SELECT count(*) FROM ledger_entries l WHERE l.job_id = j.id AND l.kind = 'REFUND') FROM jobs j"
        )
    ):
        kept = (status == "COMPLETED" and stored == 4) or (status == "CANCELED" and stored > 0)
        if charges != 1 or refunds != (0 if kept else 1) or (status == "COMPLETED") != (stored == 4):
            found.append(f"I2: job {job} is {status} with {stored} photos, {charges} charges, {refunds} refunds")
    return found


def _settlements(_world: World, connection: Connection) -> list[str]:
    rows = connection.execute(
        text(
            "SELECT j.id, j.status, count(e.id), min(e.name), "
            "(SELECT count(*) FROM deliveries d WHERE d.job_id = j.id) "
            "FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id AND e.name = ANY(:ends) GROUP BY j.id"
        ),
        {"ends": list(ENDS)},
    )
    return [
        f"I3: job {job} is {status}, was settled {count} times ({name}) and is told of {deliveries} times"
        for job, status, count, name, deliveries in rows
        if count != 1 or name != f"job.{status.lower()}" or deliveries != 1
    ]


def _payments(world: World, connection: Connection) -> list[str]:
    booked: dict[str, Decimal] = {
        row.prediction_id: row.cost
        for row in connection.execute(text("SELECT prediction_id, cost FROM attempts WHERE prediction_id IS NOT NULL"))
    }
    return [
        f"I4: prediction {run.prediction.id} was billed and is booked as {booked.get(run.prediction.id)}"
        for run in world.provider.runs.values()
        if run.billed and run.known_to_us and not booked.get(run.prediction.id)
    ]


def _objects(world: World, connection: Connection) -> list[str]:
    promised = set(connection.execute(text("SELECT object_key FROM photos WHERE status = 'STORED'")).scalars())
    promised |= {f"portraits/{i}" for i in connection.execute(text("SELECT portrait_id FROM jobs")).scalars()}
    there = set(world.storage.objects)
    found = [f"I6: {key} is there and no row promises it" for key in sorted(there - promised)]
    found += [f"I6: {key} is promised and not there" for key in sorted(promised - there)]
    for key in promised & there:
        if key.startswith("photos/"):
            try:
                Image.open(BytesIO(world.storage.objects[key])).load()
            except OSError:
                found.append(f"I2: {key} is no picture")
    return found


def _arrows(_world: World, connection: Connection) -> list[str]:
    """Photos move PENDING -> GENERATING -> STORED, FAILED or back; a story told by the events of each."""
    found = []
    rows = connection.execute(
        text(
            "SELECT p.id, p.status, array_agg(e.name ORDER BY e.id) FILTER (WHERE e.id IS NOT NULL) "
            "FROM photos p LEFT JOIN job_events e ON e.photo_id = p.id GROUP BY p.id"
        )
    )
    for photo, status, names in rows:
        state = "PENDING"
        for name in names or []:
            allowed = {
                "photo.started": ("PENDING", "GENERATING"),
                "photo.retried": ("GENERATING", "PENDING"),
                "photo.stored": ("GENERATING", "STORED"),
                "photo.failed": ("GENERATING", "FAILED"),
            }[name]
            # An attempt that the provider did not take is withdrawn, which leaves no event.
            if state != allowed[0] and not (name == "photo.started" and state == "GENERATING"):
                found.append(f"I7: photo {photo} was {state} when {name}")
            state = allowed[1]
        if state not in (status, "PENDING", "GENERATING") or status in ("PENDING", "GENERATING"):
            found.append(f"I7: photo {photo} is {status}, its story ends in {state}")
    return found


def _time(world: World, connection: Connection) -> list[str]:
    late = connection.execute(
        text(
            "SELECT id FROM jobs WHERE completed_at > '2026-01-01T00:00:00Z'::timestamptz + :limit * interval '1 s' "
            "AND completed_at > created_at + interval '600 s'"
        ),
        {"limit": world.last_fault_at + SETTLED_WITHIN_SECONDS},
    ).scalars()
    return [f"I5: job {job} was settled later than 10 minutes after the last fault" for job in late]
