"""One step of a worker, as a real process that kills itself (SIGKILL) at a chosen boundary.

`python -m tests.dying_worker start|collect PHOTO_ID BOUNDARY` runs the step of the real system, as the environment
sets it up. A boundary is the moment before or after an effect that outlives the process: a commit, a call to the
provider, a write to the storage. Each is printed as it is passed; the process dies on the one that is named.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, photos
from shared.settings import get_settings
from shared.telemetry import configure_logging
from worker.generation import Generation
from worker.tasks import generation as open_generation

# The functions of one transaction each; a commit is named after the last of them that ran in it.
STEPS = (
    "claim",
    "open_attempt",
    "record_prediction",
    "release",
    "renew",
    "store",
    "retry",
    "give_up",
    "withdraw_attempt",
)
EFFECTS = ("start", "fetch", "find", "read_output", "put")


class Boundaries:
    def __init__(self, deadly: str) -> None:
        self._deadly = deadly
        self._last_step = "nothing"

    def passes(self, name: str) -> None:
        print(name, flush=True)
        if name == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def name_transactions(self) -> None:
        for step in STEPS:
            module = attempts if hasattr(attempts, step) else photos
            real = getattr(module, step)

            def named(*args: Any, _real: Any = real, _step: str = step, **kwargs: Any) -> Any:
                self._last_step = _step
                return _real(*args, **kwargs)

            setattr(module, step, named)

    @contextmanager
    def begin(self, sessions: sessionmaker[Session]) -> Iterator[Session]:
        with sessions() as session:
            yield session
            self.passes(f"before commit of {self._last_step}")
            session.commit()
            self.passes(f"after commit of {self._last_step}")


class WatchedSessions:
    """A sessionmaker whose commits are boundaries."""

    def __init__(self, sessions: sessionmaker[Session], boundaries: Boundaries) -> None:
        self._sessions = sessions
        self._boundaries = boundaries

    def __call__(self) -> Session:
        return self._sessions()

    def begin(self) -> Any:
        return self._boundaries.begin(self._sessions)


class Watched:
    """Another object, whose effects are boundaries."""

    def __init__(self, real: Any, boundaries: Boundaries) -> None:
        self._real = real
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in EFFECTS:
            return real

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._boundaries.passes(f"before {name}")
            answer = real(*args, **kwargs)
            self._boundaries.passes(f"after {name}")
            return answer

        return watched


def main() -> None:
    step, photo_id, deadly = sys.argv[1:]
    configure_logging(get_settings())
    boundaries = Boundaries(deadly)
    boundaries.name_transactions()
    real = open_generation()
    generation: Generation = replace(
        real,
        sessions=WatchedSessions(real.sessions, boundaries),  # type: ignore[arg-type]
        predictor=Watched(real.predictor, boundaries),
        storage=Watched(real.storage, boundaries),
    )
    getattr(generation, step)(UUID(photo_id))


if __name__ == "__main__":
    main()
