"""Boundaries: the moments before and after each effect that outlives a process, by name; at one of them it dies.

An effect is a commit, a call to the provider, a write to the storage, a message, a note, a line in the log. A commit
bears the name of the first function of ours that ran in its transaction, and says so when it settles the job.
"""

import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

import api.routes.jobs
import worker.generation
import worker.sweeper
from api.changes import JobChanges
from api.rate_limit import RateLimits
from shared import attempts, credits, deletion, jobs, leases, loose_objects, photos
from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.queue import JobQueue
from worker.replicate_predictor import ReplicatePredictor

TRANSACTIONS = {
    attempts: ("record_prediction", "record_duplicate", "end", "close_later", "take_unclosed"),
    credits: ("provision_user",),
    jobs: ("accept", "settle_overdue", "cancel"),
    loose_objects: ("expect", "let_go", "take_due", "forget"),
    deletion: ("confirm",),
    leases: ("claim", "renew", "release"),
    photos: ("open_attempt", "withdraw_attempt", "store", "retry", "give_up", "take_due"),
}
EFFECTS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("predictor.", ReplicatePredictor, ("start", "fetch", "find", "recognise", "cancel", "read_output")),
    ("storage.", DiskStorage, ("put", "delete")),
    ("queue.", JobQueue, ("start_photos", "collect_photos", "close_attempts")),
    ("limits.", RateLimits, ("count_upload", "count_submission")),
    ("notes.", ChangeNotes, ("tell",)),
    ("notes.", JobChanges, ("tell",)),
    ("", worker.generation, ("log_settlement",)),
    ("", worker.sweeper, ("log_settlement",)),
    ("", api.routes.jobs, ("log_settlement",)),
)


class Boundaries:
    """All boundaries of this process, from now on until it ends."""

    def __init__(self, on_pass: Callable[[str], None], deadly: int | None = None) -> None:
        """`on_pass` hears each name; the process is killed (SIGKILL) at boundary number `deadly`, counted from 0."""
        self._on_pass = on_pass
        self._deadly = deadly
        self._count = 0
        self._watching = True
        self._transaction = ""
        self._depth = 0
        self.meanwhile: dict[str, Callable[[], None]] = {}  # what others do once, just when a boundary is passed
        for module, names in TRANSACTIONS.items():
            for name in names:
                self._name_transactions(module, name)
        self._note_settlements()
        for prefix, owner, names in EFFECTS:
            for name in names:
                self._watch(owner, name, prefix + name)
        event.listen(Session, "before_commit", lambda _session: self._passes(f"before commit of {self._transaction}"))
        event.listen(Session, "after_commit", self._committed)

    def aside(self, act: Callable[[], Any]) -> Any:
        """Do something that is no part of what this process is watched for."""
        watching, self._watching = self._watching, False
        transaction, self._transaction = self._transaction, ""
        answer = act()
        self._watching, self._transaction = watching, transaction
        return answer

    def _passes(self, name: str) -> None:
        if not self._watching:
            return
        self._on_pass(name)
        if self._count == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1
        if act := self.meanwhile.pop(name, None):
            self.aside(act)

    def _committed(self, _session: Session) -> None:
        name, self._transaction = self._transaction, ""
        self._passes(f"after commit of {name}")

    def _name_transactions(self, module: Any, name: str) -> None:
        real = getattr(module, name)
        full_name = f"{module.__name__.removeprefix('shared.')}.{name}"

        def named(*args: Any, **kwargs: Any) -> Any:
            if not self._transaction and not self._depth:
                self._transaction = full_name
            self._depth += 1
            try:
                return real(*args, **kwargs)
            except BaseException:
                self._transaction = ""  # it is rolled back
                raise
            finally:
                self._depth -= 1

        setattr(module, name, named)

    def _note_settlements(self) -> None:
        real = jobs._settle

        def settling(*args: Any, **kwargs: Any) -> Any:
            self._transaction += " that settles"
            return real(*args, **kwargs)

        jobs._settle = settling

    def _watch(self, owner: Any, name: str, full_name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._passes(f"before {full_name}")
            answer = real(*args, **kwargs)
            self._passes(f"after {full_name}")
            return answer

        async def watched_coroutine(*args: Any, **kwargs: Any) -> Any:
            self._passes(f"before {full_name}")
            answer = await real(*args, **kwargs)
            self._passes(f"after {full_name}")
            return answer

        setattr(owner, name, watched_coroutine if inspect.iscoroutinefunction(real) else watched)
