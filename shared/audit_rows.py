"""The promises that rows alone can prove or break, each as one set-based statement over the whole history.

The statements are written anew here, and use nothing of the code that writes the rows: a mistake there must not
hide itself.
"""
# ruff: noqa: S608 - all that is put into the statements are words of this file

from dataclasses import dataclass

from shared.credits import JOB_COST_CREDITS
from shared.jobs import PHOTOS_PER_JOB

# How long after its deadline a job may still be active: together with the usual deadline, I5's ten minutes.
OVERDUE = "interval '2 minutes'"

# How long a user's wish may be unfulfilled before it counts as broken. Objects that a dead worker may have left are
# looked for until ten minutes have passed.
UNFULFILLED = "interval '15 minutes'"

_ENDED_BY = "('job.completed', 'job.partial', 'job.failed', 'job.canceled')"
_STEPS = "('photo.started', 'photo.retried', 'photo.stored', 'photo.failed')"
_ACTIVE_JOB = "('QUEUED', 'PROCESSING')"
_ACTIVE_PHOTO = "('PENDING', 'GENERATING')"


@dataclass(frozen=True, slots=True)
class Check:
    """`offenders` selects `id` and `says` of each row of `table` that breaks the promise."""

    promise: str
    says: str
    table: str
    offenders: str


_BALANCES = """
SELECT u.id, format('the balance is %s, its ledger sums to %s', u.credits, coalesce(l.total, 0)) AS says
FROM users u LEFT JOIN (SELECT user_id, sum(amount) AS total FROM ledger_entries GROUP BY user_id) l ON l.user_id = u.id
WHERE u.credits <> coalesce(l.total, 0) OR u.credits < 0
"""

# Compared with the entry before and not with the running sum, so that one wrong entry is one offence.
_ENTRIES = """
SELECT id, format('%s of %s makes %s into %s, of user %s', kind, amount, before, balance_after, user_id) AS says
FROM (
    SELECT *, coalesce(lag(balance_after) OVER (PARTITION BY user_id ORDER BY id), 0) AS before FROM ledger_entries
) entry
WHERE balance_after <> before + amount OR balance_after < 0
"""

_OWNERS = """
SELECT l.id, format('%s of user %s for job %s of user %s', l.kind, l.user_id, l.job_id, j.user_id) AS says
FROM ledger_entries l LEFT JOIN jobs j ON j.id = l.job_id
WHERE l.kind IN ('CHARGE', 'REFUND') AND (j.id IS NULL OR j.user_id <> l.user_id)
"""

_CREDITS = f"""
WITH moved AS (
    SELECT job_id,
        count(*) FILTER (WHERE kind = 'CHARGE') AS charges,
        -coalesce(sum(amount) FILTER (WHERE kind = 'CHARGE'), 0) AS charged,
        count(*) FILTER (WHERE kind = 'REFUND') AS refunds,
        coalesce(sum(amount) FILTER (WHERE kind = 'REFUND'), 0) AS refunded
    FROM ledger_entries WHERE job_id IS NOT NULL GROUP BY job_id
), kept AS (
    SELECT j.id, j.status, coalesce(p.stored, 0) AS stored,
        coalesce(m.charges, 0) AS charges, coalesce(m.charged, 0) AS charged,
        coalesce(m.refunds, 0) AS refunds, coalesce(m.refunded, 0) AS refunded,
        (j.status = 'COMPLETED' AND coalesce(p.stored, 0) = {PHOTOS_PER_JOB})
            OR (j.status = 'CANCELED' AND coalesce(p.stored, 0) > 0)
            OR j.status IN {_ACTIVE_JOB} AS may_keep
    FROM jobs j LEFT JOIN moved m ON m.job_id = j.id
    LEFT JOIN (SELECT job_id, count(*) AS stored FROM photos WHERE status = 'STORED' GROUP BY job_id) p
        ON p.job_id = j.id
)
SELECT id, format('%s with %s stored photos: charged %s in %s entries, refunded %s in %s, should be %s and %s',
    status, stored, charged, charges, refunded, refunds,
    {JOB_COST_CREDITS}, CASE WHEN may_keep THEN 0 ELSE {JOB_COST_CREDITS} END) AS says
FROM kept
WHERE charges <> 1 OR charged <> {JOB_COST_CREDITS} OR refunds <> CASE WHEN may_keep THEN 0 ELSE 1 END
    OR refunded <> CASE WHEN may_keep THEN 0 ELSE {JOB_COST_CREDITS} END
"""

_SETTLEMENTS = f"""
SELECT j.id, format('%s, completed at %s, settled by %s',
    j.status, coalesce(j.completed_at::text, 'no time'), coalesce(e.names, 'nothing')) AS says
FROM jobs j LEFT JOIN (
    SELECT job_id, string_agg(name, ', ' ORDER BY id) AS names FROM job_events WHERE name IN {_ENDED_BY} GROUP BY job_id
) e ON e.job_id = j.id
WHERE e.names IS DISTINCT FROM CASE WHEN j.status NOT IN {_ACTIVE_JOB} THEN 'job.' || lower(j.status) END
    OR (j.completed_at IS NULL) <> (j.status IN {_ACTIVE_JOB})
"""

_DELIVERIES = f"""
SELECT j.id, format('%s, delivery wanted: %s, delivery: %s', j.status, j.delivery_wanted, d.id IS NOT NULL) AS says
FROM jobs j LEFT JOIN deliveries d ON d.job_id = j.id
WHERE (d.id IS NOT NULL) <> (j.delivery_wanted AND j.status NOT IN {_ACTIVE_JOB})
"""

_UNENDED = f"""
SELECT p.id, format('%s%s, of job %s, which is %s',
    p.status, CASE WHEN p.lease_token IS NOT NULL THEN ' and leased' ELSE '' END, p.job_id, j.status) AS says
FROM photos p JOIN jobs j ON j.id = p.job_id
WHERE (p.status IN {_ACTIVE_PHOTO} AND j.status NOT IN {_ACTIVE_JOB})
    OR (p.lease_token IS NOT NULL AND (p.status NOT IN {_ACTIVE_PHOTO} OR j.status NOT IN {_ACTIVE_JOB}))
"""

_OVERDUE = f"""
SELECT id, format('%s, its deadline was %s', status, deadline_at) AS says
FROM jobs WHERE status IN {_ACTIVE_JOB} AND deadline_at < cuggu_now() - {OVERDUE}
"""

# A job that no worker ever saw passes through PROCESSING within the transaction that settles it.
_JOB_ARROWS = f"""
WITH story AS (
    SELECT job_id, min(id) AS first,
        min(id) FILTER (WHERE name = 'job.accepted') AS accepted,
        count(*) FILTER (WHERE name = 'job.accepted') AS acceptances,
        min(id) FILTER (WHERE name IN {_ENDED_BY}) AS settled,
        max(id) FILTER (WHERE name IN {_STEPS}) AS last_step,
        count(*) FILTER (WHERE name = 'photo.started') AS started
    FROM job_events GROUP BY job_id
), told AS (
    SELECT j.id, CASE
        WHEN s.acceptances IS DISTINCT FROM 1 THEN format('accepted %s times', coalesce(s.acceptances, 0))
        WHEN s.first <> s.accepted THEN format('event %s came before it was accepted', s.first)
        WHEN s.last_step > s.settled THEN format('event %s came after it was settled', s.last_step)
        WHEN j.status = 'QUEUED' AND s.started > 0 THEN 'QUEUED, although a photo was started'
        WHEN j.status IN ('PROCESSING', 'COMPLETED', 'PARTIAL') AND s.started = 0
            THEN j.status || ', although no photo was ever started'
    END AS says
    FROM jobs j LEFT JOIN story s ON s.job_id = j.id
)
SELECT id, says FROM told WHERE says IS NOT NULL
"""

# An attempt that the provider surely did not take is withdrawn without an event (GENERATING -> PENDING), and its
# number is given again: so a start may follow a start of the same attempt. What a job's end did to its photos is
# told by the job's event. Nearly every photo is started once and then stored: those are counted, which takes half as
# long as putting their steps in order.
_PHOTO_ARROWS = f"""
WITH plain AS (
    SELECT photo_id FROM job_events WHERE name IN {_STEPS} GROUP BY photo_id
    HAVING count(*) = 2
        AND min(id) FILTER (WHERE name = 'photo.started') < min(id) FILTER (WHERE name = 'photo.stored')
), others AS MATERIALIZED (
    SELECT p.id, p.status, p.job_id FROM photos p LEFT JOIN plain ON plain.photo_id = p.id
    WHERE plain.photo_id IS NULL OR p.status <> 'STORED'
), steps AS (
    SELECT id, photo_id, name, data ->> 'attempt' AS attempt,
        lag(name) OVER story AS before, lag(data ->> 'attempt') OVER story AS attempt_before,
        lead(id) OVER story IS NULL AS is_last
    FROM job_events WHERE name IN {_STEPS} AND photo_id IN (SELECT id FROM others)
    WINDOW story AS (PARTITION BY photo_id ORDER BY id)
), replayed AS (
    SELECT photo_id, max(name) FILTER (WHERE is_last) AS last,
        min(id) FILTER (WHERE CASE name
            WHEN 'photo.started' THEN NOT (before IS NULL OR before = 'photo.retried'
                OR (before = 'photo.started' AND attempt IS NOT DISTINCT FROM attempt_before))
            ELSE before IS DISTINCT FROM 'photo.started' END) AS off_the_arrows
    FROM steps GROUP BY photo_id
), told AS (
    SELECT p.id, CASE
        WHEN r.off_the_arrows IS NOT NULL THEN format('event %s follows no arrow', r.off_the_arrows)
        WHEN r.last = 'photo.stored' AND p.status = 'STORED' THEN NULL
        WHEN r.last = 'photo.failed' AND p.status = 'FAILED' THEN NULL
        WHEN coalesce(r.last, '') NOT IN ('photo.stored', 'photo.failed') AND (
            p.status = 'PENDING' OR (p.status = 'GENERATING' AND r.last = 'photo.started')
            OR (p.status = 'CANCELED' AND j.status = 'CANCELED')
            OR (p.status = 'FAILED' AND j.status IN ('PARTIAL', 'FAILED'))) THEN NULL
        ELSE format('%s, of a job that is %s, after %s', p.status, j.status, coalesce(r.last, 'no event'))
    END AS says
    FROM others p JOIN jobs j ON j.id = p.job_id LEFT JOIN replayed r ON r.photo_id = p.id
)
SELECT id, says FROM told WHERE says IS NOT NULL
"""

_JOB_FITS = f"""
WITH counted AS (
    SELECT job_id, count(*) AS photos, count(*) FILTER (WHERE status = 'STORED') AS stored,
        count(*) FILTER (WHERE status <> 'PENDING') AS begun
    FROM photos GROUP BY job_id
)
SELECT j.id, format('%s with %s photos, %s stored', j.status, coalesce(c.photos, 0), coalesce(c.stored, 0)) AS says
FROM jobs j LEFT JOIN counted c ON c.job_id = j.id
WHERE coalesce(c.photos, 0) <> {PHOTOS_PER_JOB}
    OR CASE j.status
        WHEN 'QUEUED' THEN c.begun > 0
        WHEN 'COMPLETED' THEN c.stored <> {PHOTOS_PER_JOB}
        WHEN 'PARTIAL' THEN c.stored NOT BETWEEN 1 AND {PHOTOS_PER_JOB} - 1
        WHEN 'FAILED' THEN c.stored > 0
        ELSE c.stored = {PHOTOS_PER_JOB} END
"""

_CHOICES = """
SELECT id, format('chose %s, which is no stored photo of its own', selected_photo_id) AS says
FROM jobs j WHERE selected_photo_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM photos p WHERE p.id = j.selected_photo_id AND p.job_id = j.id AND p.status = 'STORED')
"""

_BROUGHT = """
SELECT id, format('stored at %s, by no attempt that succeeded', stored_at) AS says
FROM photos p WHERE status = 'STORED' AND NOT EXISTS (
    SELECT FROM attempts a WHERE a.photo_id = p.id AND a.outcome = 'SUCCEEDED')
"""

_PHOTO_FITS = f"""
WITH tried AS (
    SELECT photo_id, count(*) AS open, count(*) FILTER (WHERE close_due_at IS NULL) AS forgotten
    FROM attempts WHERE outcome = 'OPEN' GROUP BY photo_id
)
SELECT p.id, format('%s with %s open attempts%s', p.status, coalesce(t.open, 0),
    CASE WHEN p.status NOT IN {_ACTIVE_PHOTO} THEN format(', %s of them not due to be closed', t.forgotten) ELSE '' END
) AS says
FROM photos p LEFT JOIN tried t ON t.photo_id = p.id
WHERE CASE p.status
    WHEN 'PENDING' THEN t.open > 0
    WHEN 'GENERATING' THEN coalesce(t.open, 0) <> 1
    ELSE t.forgotten > 0 END
"""

_DELETED = """
SELECT j.id, format('deleted at %s, with %s photos left%s%s', j.deleted_at, count(p.id),
    CASE WHEN j.portrait_deleted_at IS NULL THEN ', and its portrait' ELSE '' END,
    CASE WHEN e.told IS DISTINCT FROM 1 THEN format(', told %s times', coalesce(e.told, 0)) ELSE '' END) AS says
FROM jobs j
LEFT JOIN photos p ON p.job_id = j.id AND (p.deleted_at IS NULL OR p.object_key IS NOT NULL)
LEFT JOIN (SELECT job_id, count(*) AS told FROM job_events WHERE name = 'job.deleted' GROUP BY job_id) e
    ON e.job_id = j.id
WHERE j.deleted_at IS NOT NULL
GROUP BY j.id, e.told HAVING count(p.id) > 0 OR j.portrait_deleted_at IS NULL OR e.told IS DISTINCT FROM 1
"""

_EXPIRED = """
SELECT j.id, format('its photos were deleted at %s, and %s are left', j.photos_deleted_at, count(p.id)) AS says
FROM jobs j JOIN photos p ON p.job_id = j.id AND (p.object_key IS NOT NULL OR p.thumbnail_key IS NOT NULL)
WHERE j.photos_deleted_at IS NOT NULL
GROUP BY j.id
"""

_LEFT = f"""
SELECT u.id, format('deleted at %s, %s', u.deleted_at, CASE
    WHEN u.email LIKE '%@%' THEN 'and its address is there' ELSE 'and has jobs' END) AS says
FROM users u
WHERE u.deleted_at IS NOT NULL AND (u.email LIKE '%@%' OR (u.deleted_at < cuggu_now() - {UNFULFILLED}
    AND EXISTS (SELECT FROM jobs j WHERE j.user_id = u.id AND j.deleted_at IS NULL)))
"""

_UNFULFILLED = f"""
SELECT id, format('%s, wished for at %s', kind, requested_at) AS says
FROM deletions WHERE gone_at IS NULL AND requested_at < cuggu_now() - {UNFULFILLED}
"""

CHECKS = (
    Check("I1", "a balance is the sum of its ledger, and never below zero", "users", _BALANCES),
    Check("I1", "each entry's balance follows from the entry before", "ledger_entries", _ENTRIES),
    Check("I2", "charges and refunds are those of the user's own jobs", "ledger_entries", _OWNERS),
    Check("I2", "a job is charged once, and refunded once unless its credit is kept", "jobs", _CREDITS),
    Check("I3", "an ended job was settled once, an active one never", "jobs", _SETTLEMENTS),
    Check("I3", "the site is told of every end that it wanted to hear of, and of none else", "jobs", _DELIVERIES),
    Check("I3", "nothing of an ended job is in work, nothing that ended is leased", "photos", _UNENDED),
    Check("I5", "no active job is two minutes past its deadline", "jobs", _OVERDUE),
    Check("I6", "a deleted job keeps no picture", "jobs", _DELETED),
    Check("I6", "a job whose photos' time is over keeps none", "jobs", _EXPIRED),
    Check("I6", "a deleted account keeps neither address nor jobs", "users", _LEFT),
    Check("I6", "what a user wished to be deleted is surely gone", "deletions", _UNFULFILLED),
    Check("I7", "each job's events follow the arrows", "jobs", _JOB_ARROWS),
    Check("I7", "each photo's events follow the arrows to its status", "photos", _PHOTO_ARROWS),
    Check("I7", "each job's status fits its photos", "jobs", _JOB_FITS),
    Check("I7", "the photo that a user chose is a stored one of that job", "jobs", _CHOICES),
    Check("I7", "each photo's status fits its open attempts", "photos", _PHOTO_FITS),
    Check("I7", "each stored photo came from an attempt that succeeded", "photos", _BROUGHT),
)
