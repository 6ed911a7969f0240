"""The stack that the tests of the page share: a real API on real servers, and a worker that they play themselves."""

from dataclasses import dataclass
from typing import Any

from tests import photos as pictures
from tests.hand_worker import HandWorker
from tests.stack import RunningStack

CREDITS = 2
SETTINGS = {"SIGNUP_CREDITS": str(CREDITS)}


@dataclass(frozen=True)
class PageStack:
    """Every visitor is another person, so no test sees another's jobs."""

    stack: RunningStack
    worker: HandWorker
    credits: int = CREDITS  # what everybody begins with

    @property
    def api_url(self) -> str:
        return self.stack.api_url

    def store(self, job: dict[str, Any], *slots: int) -> None:
        """Make these photos of the job."""
        for slot in slots:
            self.worker.start(job["photos"][slot])
            self.worker.store(job["photos"][slot], pictures.one_face(), (512, 512))
