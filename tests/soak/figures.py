"""What a soak came to, computed from what was written down, and what of it is broken."""

import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

Series = Sequence[tuple[float, float]]  # (seconds, value), in order

GROWTH_MAX = 0.01  # of the memory, in ten minutes
TEN_MINUTES = 600.0
# Of each process's life. By then it has been through every kind of fault, and the rush after each: all its threads and
# connections have been at work at once, which takes 10 MB more than a quiet minute.
WARM_UP_SECONDS = 600.0
LIFE_MIN_SECONDS = 300.0  # after it, to say anything about growth
APART_SECONDS = 60.0
# They keep what happened, on purpose, and grow with the jobs there were. Every other table must not.
HISTORY = frozenset({"users", "ledger_entries", "jobs", "photos", "attempts", "job_events", "deliveries", "deletions"})
# A PostgreSQL that was killed has forgotten which tables it should clean: two minutes later it does, and 0.5 MB more of
# dead rows are there by then, whose room is used again.
TABLE_GROWTH_MAX, TABLE_SLACK_BYTES = 1.25, 1024 * 1024
CAUGHT_UP_SECONDS = 2.0  # a queue whose oldest photo has waited no longer is as good as empty


def growth(lives: Iterable[Series], warm_up_seconds: float = WARM_UP_SECONDS) -> float | None:
    """The share by which memory grows in ten minutes; None if no life was long enough to tell.

    The median of the slopes between all pairs of samples of one life (Theil-Sen), so that what comes and goes with
    the load does not count, over the median level.
    """
    slopes, levels = [], []
    for life in lives:
        warm = [(at, value) for at, value in life if at >= life[0][0] + warm_up_seconds]
        if warm and warm[-1][0] - warm[0][0] >= LIFE_MIN_SECONDS:
            levels += [value for _, value in warm]
            slopes += [
                (later - earlier) / (then - at)
                for (at, earlier), (then, later) in combinations(warm, 2)
                if then - at >= APART_SECONDS
            ]
    return statistics.median(slopes) * TEN_MINUTES / statistics.median(levels) if slopes else None


def growing_tables(tables: Mapping[str, Series]) -> list[str]:
    """Those that are no history, and larger in the last third of the time than they ever were in the second."""
    found = []
    for name, series in tables.items():
        begin, length = series[0][0], series[-1][0] - series[0][0]
        middle, last = (
            max((size for at, size in series if part <= (at - begin) * 3 <= part + length), default=0)
            for part in (length, 2 * length)
        )
        if name not in HISTORY and last > middle * TABLE_GROWTH_MAX + TABLE_SLACK_BYTES:
            found.append(name)
    return found


def queue_ages(waits: Iterable[tuple[float, float]], until: float, step: float = 0.5) -> Series:
    """How long the photo that has waited longest had waited, `step` by `step` from 0 until the end.

    `waits`: of each photo, when it was accepted and when its first prediction was begun.
    """
    ages = [0.0] * (int(until / step) + 1)
    for accepted, started in waits:
        for index in range(max(0, bisect_left(range(len(ages)), accepted / step)), len(ages)):
            if index * step >= started:
                break
            ages[index] = max(ages[index], index * step - accepted)
    return [(index * step, age) for index, age in enumerate(ages)]


def recoveries(faults_over: Iterable[float], ages: Series) -> list[float]:
    """Of each fault the seconds from when it was over until the queue had been caught up on, or until the end."""
    end = ages[-1][0]
    caught_up = [at for at, age in ages if age <= CAUGHT_UP_SECONDS]
    found = []
    for over in faults_over:
        position = bisect_left(caught_up, over)
        found.append((caught_up[position] if position < len(caught_up) else end) - over)
    return found


def percentile(values: Iterable[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
