"""What one process counts for Prometheus: every name, its labels, and the page.

Labels hold words of ours, states, routes and models, and never an id or anything else that people bring, so their
number is bounded. What the rows can tell is not counted here but read from them (shared/figures.py).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from shared.errors import Refusal
from shared.states import ACTIVE_JOB, JobStatus

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Where several processes answer on one port, each of them can tell of all (prometheus_client's own way).
SHARED_DIR = "PROMETHEUS_MULTIPROC_DIR"

_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_VENDOR = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0)
_WAIT = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody asks for

# --- The API
HTTP_REQUESTS = Counter("cuggu_http_requests", "Answers, by the route's template", ["route", "method", "status"])
HTTP_SECONDS = Histogram(
    "cuggu_http_request_seconds",
    "Until an answer begins; requests that wait for a change (?wait=) are left out",
    ["route", "method"],
    buckets=_QUICK,
)
SUBMISSIONS = Counter("cuggu_submissions", "Submissions: accepted, replayed, or the code of the refusal", ["outcome"])
FACE_CHECKS = Histogram(
    "cuggu_face_check_seconds", "Looks for a face that were not remembered, by verdict", ["outcome"], buckets=_VENDOR
)
WEBHOOKS = Counter("cuggu_webhooks_received", "News from the provider: new, repeated or refused", ["outcome"])

# --- The worker
TASKS = Histogram("cuggu_task_seconds", "Steps, by task: done, postponed or crashed", ["task", "outcome"])
SWEEPS = Histogram("cuggu_sweep_seconds", "Sweeps that came to their end", buckets=_QUICK)
ATTEMPTS = Counter("cuggu_attempts", "Attempts that ended, by model", ["model", "outcome"])
ATTEMPTS_COST = Counter("cuggu_attempts_cost_usd", "What they cost, as booked", ["model"])
CREATES_UNANSWERED = Counter("cuggu_creates_unanswered", "Create calls whose answer was lost; each is searched for")
PROVIDER_CALLS = Histogram(
    "cuggu_provider_seconds",
    "Calls to the generator: create, get, list, cancel, output",
    ["provider", "call", "outcome"],
    buckets=_VENDOR,
)
PROVIDER_THROTTLED = Counter("cuggu_provider_throttled", "Answers 429, of which there should be none", ["kind"])
BUDGET_WAITS = Histogram(
    "cuggu_budget_wait_seconds",
    "Calls put off to stay within the provider's limits, for how long",
    ["kind"],
    buckets=_WAIT,
)
DELIVERIES = Counter("cuggu_deliveries", "Tries to tell the site of an end: taken, postponed, given_up", ["outcome"])

# --- Both
STORAGE_CALLS = Histogram(
    "cuggu_storage_seconds", "Calls to the storage: put, get, delete", ["adapter", "call", "outcome"], buckets=_VENDOR
)
JOBS_ENDED = Counter("cuggu_jobs_ended", "Jobs that were settled", ["status"])
REFUNDS = Counter("cuggu_refunds", "Credits that went back, by how the job ended", ["status"])

# There from the start, so that the first one is a rise and not a beginning.
for _kind in ("create", "other"):
    PROVIDER_THROTTLED.labels(_kind)
for _status in JobStatus:
    if _status not in ACTIVE_JOB:
        JOBS_ENDED.labels(_status.value)
        REFUNDS.labels(_status.value)


@contextmanager
def refusals_counted() -> Iterator[None]:
    """Around what may refuse a submission."""
    try:
        yield
    except Refusal as refusal:
        SUBMISSIONS.labels(refusal.code).inc()
        raise
    except Exception:
        SUBMISSIONS.labels("crashed").inc()
        raise


def page(rows: Collector | None = None) -> bytes:
    """What is counted here, or by all processes that share a directory, in Prometheus' form; and what rows tell."""
    registry = CollectorRegistry(auto_describe=False)
    if SHARED_DIR in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(_Here())
    if rows is not None:
        registry.register(rows)
    return generate_latest(registry)


class _Here(Collector):
    """This process's own counters, and what prometheus_client tells of any process: memory, descriptors, time."""

    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


def forget_dead_processes() -> None:
    """Take away what an earlier run left in the shared directory. Does nothing without one.

    While another process of this run lives, the counts of the dead stay: a sum that falls would look like a restart.
    """
    if SHARED_DIR not in os.environ:
        return
    left = {path: path.stem.rpartition("_")[2] for path in Path(os.environ[SHARED_DIR]).glob("*_*.db")}
    others = {int(pid) for pid in left.values() if pid.isdigit()} - {os.getpid()}
    if any(_alive(pid) for pid in others):
        return
    for path, pid in left.items():
        if pid != str(os.getpid()):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    with suppress(PermissionError):  # there, and somebody else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
