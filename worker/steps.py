"""What all tasks share: each is timed, and a fault that passes by itself is no error, because the sweep looks again."""

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec

import structlog

from shared.database import PASSING_FAULTS
from shared.errors import StorageUnavailable
from shared.metrics import TASKS
from worker.main import app

Arguments = ParamSpec("Arguments")
log = structlog.get_logger()


def step(name: str) -> Callable[[Callable[Arguments, None]], Any]:
    """Register a Celery task under this name. What nobody expected is raised, and logged by Celery as an error."""

    TASKS.labels(name, "crashed")  # so that the first crash is a rise and not a beginning

    def register(work: Callable[Arguments, None]) -> Any:
        @functools.wraps(work)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            outcome, began = "crashed", time.perf_counter()
            try:
                work(*args, **kwargs)
                outcome = "done"
            except (*PASSING_FAULTS, StorageUnavailable) as error:
                outcome = "postponed"
                # Only the driver's own words: SQLAlchemy's carry the statement.
                reason = getattr(error, "orig", None) or error.__cause__ or error
                log.warning("task.postponed", task=name, reason=type(reason).__name__, error=str(reason))
            finally:
                TASKS.labels(name, outcome).observe(time.perf_counter() - began)

        return app.task(name=name)(run)

    return register
