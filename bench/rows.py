"""Histories of any size, written by the database itself, as the system would have left them."""

from dataclasses import dataclass
from uuid import UUID

import psycopg

JOBS_PER_USER = 10
HEAVY_USER = "user0@bench.example"
ACTIVE_UNTIL = "interval '1 day'"

# A user's jobs lie together, newest last; each took half a minute, at one model, with four photos and their books.
_USERS = """
INSERT INTO users (id, email, credits)
SELECT gen_random_uuid(), 'user' || n || '@bench.example', 2 FROM generate_series(%(first)s::int, %(last)s::int) AS n
"""
_JOBS = """
INSERT INTO jobs (id, user_id, style, portrait_id, request_fingerprint, status, created_at, deadline_at, completed_at)
SELECT gen_random_uuid(), u.id, (ARRAY['CLASSIC', 'MODERN', 'VINTAGE', 'ROMANTIC', 'CINEMATIC'])[1 + n %% 5],
       gen_random_uuid(), repeat('0', 64), 'COMPLETED', at, at + interval '8 minutes',
       at + (20 + n %% 10 * 40) * interval '1 second'
FROM users u, generate_series(1, CASE u.email WHEN %(heavy_user)s THEN %(heavy)s::int ELSE %(per_user)s::int END) AS n,
     LATERAL (SELECT now() - n * interval '1 hour' - (hashtext(u.email) %% 1000) * interval '1 minute' AS at) AS time
WHERE u.credits = 2
"""
# One job in ten had its first photo tried twice.
_RETRIED = "hashtext({job_id}::text) %% 10 = 0"
# A job's photos and attempts lie together. The CASE makes the slots the inner loop.
_PHOTOS = """
INSERT INTO photos (id, job_id, slot, status, object_key, width, height, size_bytes, sha256, stored_at, next_check_at)
SELECT gen_random_uuid(), j.id, slot, 'STORED', 'photos/' || j.id || '/' || slot, 900, 1200, 200000, repeat('0', 64),
       j.completed_at, j.completed_at
FROM jobs j, LATERAL (SELECT generate_series(0, CASE WHEN j.status = 'COMPLETED' THEN 3 END) AS slot) AS slots
"""
_ATTEMPTS = f"""
INSERT INTO attempts (id, photo_id, number, provider, model, seed, prediction_id, outcome, cost, created_at,
                      submitted_at, ended_at, provider_seconds)
SELECT gen_random_uuid(), p.id, number, 'preview', 'preview', number, p.id || '-' || number,
       CASE WHEN number = tries THEN 'SUCCEEDED' ELSE 'FAILED' END, 0, p.stored_at, p.stored_at, p.stored_at, 20
FROM photos p, LATERAL (
    SELECT CASE WHEN p.slot = 0 AND {_RETRIED.format(job_id="p.job_id")} THEN 2 ELSE 1 END AS tries
) AS tried, LATERAL generate_series(1, tries) AS number
"""
# A job's events in their order: the VALUES refer to the row before them, so they are its inner loop.
_EVENTS = f"""
INSERT INTO job_events (job_id, photo_id, name, data, at)
SELECT j.id, e.photo_id, e.name,
       CASE WHEN e.name = 'photo.started' THEN jsonb_build_object('attempt', 1 + e.again::int) ELSE '{{}}' END, e.at
FROM jobs j JOIN (SELECT job_id, array_agg(id ORDER BY slot) AS ids FROM photos GROUP BY job_id) p ON p.job_id = j.id,
LATERAL (VALUES
    (NULL::uuid, 'job.accepted', j.created_at, false),
    (p.ids[1], 'photo.started', j.created_at, false), (p.ids[2], 'photo.started', j.created_at, false),
    (p.ids[3], 'photo.started', j.created_at, false), (p.ids[4], 'photo.started', j.created_at, false),
    (p.ids[1], 'photo.retried', j.created_at, true), (p.ids[1], 'photo.started', j.created_at, true),
    (p.ids[1], 'photo.stored', j.completed_at, false), (p.ids[2], 'photo.stored', j.completed_at, false),
    (p.ids[3], 'photo.stored', j.completed_at, false), (p.ids[4], 'photo.stored', j.completed_at, false),
    (NULL, 'job.completed', j.completed_at, false)
) AS e (photo_id, name, at, again)
WHERE NOT e.again OR {_RETRIED.format(job_id="j.id")}
"""
_LEDGER = (
    """
    INSERT INTO ledger_entries (user_id, kind, amount, balance_after, created_at)
    SELECT user_id, 'SIGNUP', 2 + count(*), 2 + count(*), now() - interval '3 years' FROM jobs GROUP BY user_id
    """,
    """
    INSERT INTO ledger_entries (user_id, kind, amount, balance_after, job_id, created_at)
    SELECT user_id, 'CHARGE', -1, 1 + row_number() OVER (PARTITION BY user_id ORDER BY created_at DESC), id, created_at
    FROM jobs ORDER BY user_id, created_at
    """,
)
_TABLES = ("users", "jobs", "photos", "attempts", "job_events", "ledger_entries")
# An index that is not ready is not written to; REINDEX makes it whole and ready, four times as fast as row by row.
_WITHOUT_INDEXES = """
UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = ANY(%(tables)s::regclass[])
"""
_SAMPLE = """
SELECT j.id, u.email FROM jobs j JOIN users u ON u.id = j.user_id
WHERE u.email = ANY(SELECT 'user' || n || '@bench.example' FROM generate_series(1, %(users)s::int) AS n)
ORDER BY u.email, j.id
"""
_REOPEN = f"""
UPDATE jobs SET status = 'PROCESSING', completed_at = NULL, created_at = now(), deadline_at = now() + {ACTIVE_UNTIL}
WHERE id = ANY(%(ids)s)
"""
_REOPEN_PHOTOS = f"""
UPDATE photos SET status = 'GENERATING', object_key = NULL, width = NULL, height = NULL, stored_at = NULL,
       next_check_at = now() + {ACTIVE_UNTIL} WHERE job_id = ANY(%(ids)s) AND slot > 1
"""


@dataclass(frozen=True, slots=True)
class OwnedJob:
    id: UUID
    email: str


def write_history(database_url: str, jobs: int, heavy: int = 0) -> None:
    """That many completed jobs into an empty database, its statistics made anew and all of it on the disk.

    `heavy` of them are `HEAVY_USER`'s; of the others each has `JOBS_PER_USER`.
    """
    parameters = {
        "first": 0 if heavy else 1,
        "last": (jobs - heavy) // JOBS_PER_USER,
        "per_user": JOBS_PER_USER,
        "heavy": heavy,
        "heavy_user": HEAVY_USER,
    }
    with psycopg.connect(database_url) as connection:
        # Each foreign key would be looked up, twenty million times; they are right by construction.
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET work_mem = '256MB'")
        connection.execute(_WITHOUT_INDEXES, {"tables": list(_TABLES)})
        for statement in (_USERS, _JOBS, _PHOTOS, _ATTEMPTS, _EVENTS, *_LEDGER):
            connection.execute(statement, parameters)
        for table in _TABLES:
            connection.execute(f"REINDEX TABLE {table}")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")  # else gigabytes are written beside what is measured next


def some_jobs(database_url: str, users: int) -> list[OwnedJob]:
    """All jobs of the first users."""
    with psycopg.connect(database_url) as connection:
        return [OwnedJob(*row) for row in connection.execute(_SAMPLE, {"users": users})]


def reopen(database_url: str, jobs: list[OwnedJob]) -> None:
    """Put these jobs into work again, two photos of each stored, and not due to anybody for a day."""
    ids = [job.id for job in jobs]
    with psycopg.connect(database_url) as connection:
        connection.execute(_REOPEN, {"ids": ids})
        connection.execute(_REOPEN_PHOTOS, {"ids": ids})
