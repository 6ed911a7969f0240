"""A lease that is renewed for as long as a step lasts, so that a slow vendor does not cost a worker its photo."""

import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from shared.leases import LeaseLost

log = structlog.get_logger()


class KeptLease:
    """Calls `renew` every `every_seconds` while the block runs; most steps are over before the first time.

    A process that is killed or stopped renews nothing, which is what lets others take over. A step that lost its
    lease is not interrupted: its next write is refused.
    """

    def __init__(self, renew: Callable[[], None], *, every_seconds: float) -> None:
        self._renew = renew
        self._every_seconds = every_seconds
        self._done = threading.Event()
        said = contextvars.copy_context()  # the ids that the step's log lines carry
        self._thread = threading.Thread(target=said.run, args=(self._run,), name="kept-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._done.set()
        # A renewal after the step's last write would find the lease given back, and say that it was lost.
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._every_seconds):
            try:
                self._renew()
            except LeaseLost:
                return
            except SQLAlchemyError as error:
                log.warning("lease.not_renewed", error=str(error))
