"""Prove the promises over everything that is written down: all rows, and every object of the storage.

The rows are looked at in one snapshot, so that no change in the meantime can look like an offence. The objects
change while they are listed: what looks wrong about one is looked at again before it is reported.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from shared import audit_objects, audit_photos
from shared.audit_findings import Finding, Offence
from shared.audit_rows import CHECKS
from shared.errors import StorageUnavailable
from shared.storage import ObjectStorage

# Of one statement over the whole history; and of a listing's page, during which the transaction is idle.
STATEMENT_SECONDS = 600
IDLE_SECONDS = 600
# Of one sort, and twice as much of one table of hashes; a statement has up to three of these. With 64 MB the groups of
# four million photos go to the disk.
STATEMENT_MEMORY = "256MB"


@dataclass(frozen=True, slots=True)
class Audit:
    """All findings, in the order of the promises."""

    findings: tuple[Finding, ...]
    lost: int = 0  # objects that were lost and written off: no promise is broken any more, but one was

    @property
    def proved(self) -> bool:
        """Whether everything was looked at and nothing offends."""
        return all(finding.proved for finding in self.findings)


def _ignore(_done: int, _of: int) -> None: ...


def audit(
    engine: Engine,
    storage: ObjectStorage,
    *,
    deep: bool = False,
    on_check: Callable[[int, int], object] = _ignore,
) -> Audit:
    """Look at everything; `deep` also reads and decodes every stored photo.

    `on_check(done, of)` hears how many of the checks of rows are done, from none to all.
    Takes two connections of the pool. A storage that does not answer leaves its findings unproved.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database does not answer, or is not ours.
    """
    with snapshot(engine) as connection:
        findings = prove_rows(connection, on_check)
        objects = _prove_objects(connection, engine, storage)
        lost = connection.scalar(text("SELECT count(*) FROM job_events WHERE name = 'object.lost'")) or 0
    if deep:
        objects.append(_prove_photos_decode(engine, storage))
    return Audit(tuple(sorted([*findings, *objects], key=lambda finding: finding.promise)), lost)


def prove_rows(connection: Connection, on_check: Callable[[int, int], object] = _ignore) -> list[Finding]:
    """What the rows of a `snapshot` prove or break; see `audit`."""
    counts = {
        table: connection.scalars(text(f"SELECT count(*) FROM {table}")).one()  # noqa: S608 - a word of ours
        for table in dict.fromkeys(check.table for check in CHECKS)
    }
    findings: list[Finding] = []
    for check in CHECKS:
        on_check(len(findings), len(CHECKS))
        with connection.execution_options(yield_per=1000).execute(text(check.offenders)) as rows:
            offences = tuple(Offence(check.table, str(row.id), str(row.says)) for row in rows)
        findings.append(Finding(check.promise, check.says, check.table, counts[check.table], offences))
    on_check(len(findings), len(CHECKS))
    return findings


def _prove_objects(connection: Connection, engine: Engine, storage: ObjectStorage) -> list[Finding]:
    try:
        return audit_objects.prove_objects(connection, engine, storage)
    except StorageUnavailable as error:
        return audit_objects.unproved(_why(error))


def _prove_photos_decode(engine: Engine, storage: ObjectStorage) -> Finding:
    try:
        return audit_photos.prove_photos_decode(engine, storage)
    except StorageUnavailable as error:
        return Finding("I2", audit_photos.DECODABLE, "photos", 0, (), unproved=_why(error))


def _why(error: StorageUnavailable) -> str:
    return f"the storage does not answer: {type(error.__cause__ or error).__name__}"


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Everything as it stood at one moment; read-only, and with more patience than a request has."""
    with engine.connect() as fresh:
        connection = fresh.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        for setting in (
            f"statement_timeout = '{STATEMENT_SECONDS}s'",
            f"idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'",
            f"work_mem = '{STATEMENT_MEMORY}'",
            "max_parallel_workers_per_gather = 0",  # one core: the others are for those who wait for photos
            "jit = off",  # each statement runs once, for seconds at the most: too short for compiling to pay
            "cursor_tuple_fraction = 1",  # all rows are wanted, not the first of them soon
        ):
            connection.execute(text(f"SET LOCAL {setting}"))
        yield connection
