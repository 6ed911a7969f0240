"""What the rows tell of the system's work, for `GET /metrics` and `cuggu queue` alike: true over all processes.

Cheap however long the history is: what is in work is counted in partial indexes that hold nothing else, and the
ledger is proved for as many users as fit into a bounded time.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

# I1, over the users of the newest entries and over as many from a random place on: within a day over all of a
# million. A sum over one user reads that user's entries alone.
LEDGER_ENTRIES = 300
LEDGER_USERS = 300

_WORK = text("""
SELECT p.status,
       count(*) AS photos,
       count(*) FILTER (WHERE p.next_check_at <= cuggu_now() - interval '10 s') AS overdue,
       extract(epoch FROM cuggu_now() - min(j.created_at))::float AS oldest_seconds,
       greatest(0, extract(epoch FROM cuggu_now() - min(p.next_check_at)))::float AS overdue_seconds,
       count(*) FILTER (WHERE cuggu_now() - j.created_at < interval '10 s') AS under_10_s,
       count(*) FILTER (WHERE cuggu_now() - j.created_at >= interval '10 s'
                          AND cuggu_now() - j.created_at < interval '60 s') AS under_1_min,
       count(*) FILTER (WHERE cuggu_now() - j.created_at >= interval '60 s'
                          AND cuggu_now() - j.created_at < interval '300 s') AS under_5_min,
       count(*) FILTER (WHERE cuggu_now() - j.created_at >= interval '300 s') AS older
  FROM photos p JOIN jobs j ON j.id = p.job_id
 WHERE p.status IN ('PENDING', 'GENERATING')
 GROUP BY p.status
""")

_BOOKS = text("""
SELECT
    (SELECT count(*) FROM jobs WHERE status IN ('QUEUED', 'PROCESSING') AND deadline_at <= cuggu_now())
        AS jobs_overdue,
    (SELECT count(*) FROM attempts WHERE outcome = 'OPEN' AND prediction_id IS NULL) AS ambiguous,
    (SELECT count(*) FROM attempts WHERE close_due_at IS NOT NULL) AS unclosed,
    (SELECT count(*) FROM attempts WHERE outcome = 'LOST') AS lost,
    (SELECT count(*) FROM attempts WHERE error_code = 'duplicate') AS duplicates,
    (SELECT coalesce(sum(cost), 0)::float FROM attempts WHERE error_code = 'duplicate') AS duplicates_cost,
    (SELECT count(*) FROM deliveries WHERE status = 'WAITING') AS deliveries_waiting,
    (SELECT count(*) FROM deliveries WHERE status = 'GIVEN_UP') AS deliveries_given_up,
    (SELECT coalesce(greatest(0, extract(epoch FROM cuggu_now() - min(delete_after))), 0)::float FROM loose_objects)
        AS loose_overdue_seconds
""")

_LEDGER = text(f"""
WITH wanted AS (
    (SELECT DISTINCT user_id FROM (SELECT user_id FROM ledger_entries ORDER BY id DESC LIMIT {LEDGER_ENTRIES}) newest)
    UNION
    (SELECT id FROM users WHERE id >= (SELECT gen_random_uuid()) ORDER BY id LIMIT {LEDGER_USERS})
)
SELECT count(*) AS users,
       count(*) FILTER (WHERE u.credits <> coalesce(l.amount, 0) OR u.credits < 0) AS wrong
  FROM wanted w JOIN users u ON u.id = w.user_id
  LEFT JOIN LATERAL (SELECT sum(amount) AS amount FROM ledger_entries WHERE user_id = w.user_id) l ON true
""")  # noqa: S608 - two numbers of ours


@dataclass(frozen=True, slots=True)
class Work:
    """The photos of one status. Ages count from the job's acceptance; overdue is what nobody acted on in time."""

    photos: int = 0
    overdue: int = 0  # due for more than 10 s
    oldest_seconds: float = 0.0
    overdue_seconds: float = 0.0  # how long the longest due has been so
    under_10_s: int = 0
    under_1_min: int = 0
    under_5_min: int = 0
    older: int = 0


@dataclass(frozen=True, slots=True)
class Books:
    jobs_overdue: int
    ambiguous: int
    unclosed: int
    lost: int
    duplicates: int
    duplicates_cost: float
    deliveries_waiting: int
    deliveries_given_up: int
    loose_overdue_seconds: float


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    users: int  # that were looked at
    wrong: int  # whose balance is not the sum of their entries


@dataclass(frozen=True, slots=True)
class Figures:
    pending: Work
    generating: Work
    books: Books
    ledger: LedgerCheck


def read_figures(session: Session) -> Figures:
    """All of them; three short reads."""
    work = {row.status: _work(row) for row in session.execute(_WORK)}
    return Figures(
        pending=work.get("PENDING", Work()),
        generating=work.get("GENERATING", Work()),
        books=Books(**session.execute(_BOOKS).mappings().one()),
        ledger=LedgerCheck(**session.execute(_LEDGER).mappings().one()),
    )


def _work(row: Any) -> Work:
    return Work(*row[1:])
