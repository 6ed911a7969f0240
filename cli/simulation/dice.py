"""All chance of one schedule, from one seed; and what it did, counted."""

import os
import random
from collections import Counter
from collections.abc import Callable

# The chance of each fault at each opportunity. Every schedule draws a temper that multiplies them, so that some are
# nearly calm and some are storms.
RATES = {
    # messages
    "message lost": 0.10,
    "message doubled": 0.10,
    "message late": 0.15,
    "redis emptied": 0.015,
    "redis away": 0.03,
    # webhooks
    "webhook lost": 0.20,
    "webhook doubled": 0.10,
    "webhook late": 0.15,
    "webhook forged": 0.05,
    # the provider
    "provider throttles": 0.08,
    "provider refuses": 0.02,
    "provider does not answer": 0.08,
    "call is slow": 0.05,
    "create answer lost": 0.08,
    "create never arrived": 0.05,
    "create arrives late": 0.05,
    "create arrives much too late": 0.02,
    "list lags": 0.20,
    "prediction moderated": 0.05,
    "prediction failed": 0.08,
    "prediction hangs": 0.03,
    "prediction aborted": 0.03,
    "output gone": 0.03,
    "output broken": 0.03,
    # the storage
    "storage away": 0.06,
    "storage answer lost": 0.05,
    "portrait is slow": 0.05,
    "portrait unfit": 0.04,
    # the database
    "database away": 0.005,
    "commit lost": 0.005,
    "commit answer lost": 0.01,
    "clock jumps forward": 0.01,
    "clock jumps back": 0.01,
    # processes
    "process dies": 0.02,
    "process stands still": 0.03,
    "workers restart": 0.01,
    "beat away": 0.01,
    "two sweeps at once": 0.05,
    # people
    "request repeated": 0.10,
    "request changed": 0.05,
    "user cancels": 0.15,
    "job retried": 0.50,
}
_TEMPERS = (0.0, 0.3, 1.0, 1.0, 2.0, 4.0)


class Dice:
    """Attributes: `faults` counts what struck."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # Ids and seeds of the product come from here too, or no schedule would ever come again: which row comes
        # first among equals hangs on its id. Nothing secret is made in a simulation.
        os.urandom = self.chance.randbytes
        random._urandom = self.chance.randbytes  # type: ignore[attr-defined]  # what SystemRandom draws from
        self._temper = self.chance.choice(_TEMPERS)
        self.calm = False  # set when faults are over and everything must come to its end
        self.faults: Counter[str] = Counter()
        self.on_fault: Callable[[], None] = lambda: None

    def strikes(self, fault: str) -> bool:
        """Whether this fault happens now."""
        # Drawn even when calm, so that a schedule's course up to there does not depend on what follows.
        drawn = self.chance.random()
        if self.calm or drawn >= min(RATES[fault] * self._temper, 0.6):
            return False
        self.faults[fault] += 1
        self.on_fault()
        return True
