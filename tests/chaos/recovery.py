"""How long a schedule took to go on after its last fault.

Measured is the time from the schedule's own last fault until the last of its jobs has ended, by the database's clock,
less the time within it in which the provider was at work for these jobs: no recovery can make a prediction quicker.
A blow (a kill, a stopped worker, a FLUSHALL) counts from the blow; what is away for a while (a server, a wire, the
provider's bad mood) from its return. What starting processes again takes is all within it, and so is what the other
schedules of the wave have struck meanwhile. A schedule whose jobs had ended before its last fault recovered from
nothing and is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.chaos.storm import Course


def recovery_seconds(course: Course, predictions: Iterable[Mapping[str, Any]]) -> float | None:
    """`predictions`: those that were made for this schedule's jobs, from the provider's books."""
    if course.given_up or not course.ends or not course.struck:
        return None
    struck = max(one.counts_from for one in course.struck)
    ended = max(end.at for end in course.ends.values())
    if ended <= struck:
        return None
    at_work = [
        (max(_epoch(entry["created_at"]), struck), min(_epoch(entry["completed_at"] or entry["created_at"]), ended))
        for entry in predictions
    ]
    return ended - struck - _covered(at_work)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of their union."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
