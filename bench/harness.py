"""How anything is measured here: side by side, in turns, several times, and void when it cannot be trusted.

A comparison goes in rounds: ours, each peer, ours again, one after another or by shorter turns within the round. Its
figure is the median over the rounds, with their range.
Our own two runs of a round are the control: as nothing differs between them, their ratio must stay within `CONTROL`, or
the whole comparison is void and is made again, a bounded number of times. A round with any error in it does not count.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

ROUNDS, QUICK_ROUNDS = 5, 2
CONTROL = (0.95, 1.05)
SPARE_ROUNDS = 3  # for those that an error voids
COMPARISONS = 3  # of which the last may still be void: then the measure is

Run = Callable[[], float]
Round = Callable[[], Mapping[str, float]]  # "ours", "ours_again" and each peer by its name


class RoundVoid(Exception):
    """Something in this round went wrong: an error answer, a lost connection, a process that ended."""


class Void(Exception):
    """The figure cannot be trusted, and is not shown as one."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What rounds gave. `ratios[name]` is ours divided by that peer's, round by round and then the median."""

    ours: Spread
    peers: Mapping[str, Spread]
    ratios: Mapping[str, Spread]
    control: Spread
    rounds: Sequence[Mapping[str, float]]
    voided: Sequence[str]


@dataclass(frozen=True, slots=True)
class Must:
    """The bound that a figure has to keep."""

    relation: Literal[">=", "<="]
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


def three_digits(value: float) -> str:
    """A figure as people read it: never as 1e+03."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. `value` is what `must` is about, and what latest.json holds under `key`."""

    key: str
    what: str
    value: float
    must: Must | None
    ours: str = ""
    peer: str = ""
    limit: str = ""

    @property
    def met(self) -> bool | None:
        return self.must.met(self.value) if self.must else None


@dataclass(slots=True)
class Measured:
    """What one measure found: its rows, everything it saw, and the bars or curves of its chart."""

    title: str
    lines: list[Line]
    raw: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    unit: str = ""


def compare(
    ours: Run,
    peers: Mapping[str, Run],
    *,
    rounds: int = ROUNDS,
    quick: bool = False,
) -> Comparison:
    """Ours beside each peer: `compare_rounds` of rounds `in_turns`."""
    return compare_rounds(in_turns(ours, peers), rounds=rounds, quick=quick)


def in_turns(ours: Run, peers: Mapping[str, Run]) -> Round:
    """The usual round."""
    return lambda: {"ours": ours(), **{name: peer() for name, peer in peers.items()}, "ours_again": ours()}


def compare_rounds(one_round: Round, *, rounds: int = ROUNDS, quick: bool = False) -> Comparison:
    """Ours beside its peers, in interleaved rounds. What swings more takes more `rounds`.

    `quick` takes two and any control: its figures mean nothing.

    Raises:
        Void: the control stayed outside its bounds, or too many rounds met an error.
    """
    seen: list[float] = []
    for _ in range(COMPARISONS):
        comparison = _rounds(one_round, QUICK_ROUNDS if quick else rounds)
        if quick or CONTROL[0] <= comparison.control.median <= CONTROL[1]:
            return comparison
        seen.append(comparison.control.median)
    raise Void(f"ours against ours gave {', '.join(f'{ratio:.3f}' for ratio in seen)}: too much noise here")


def _rounds(one_round: Round, rounds: int) -> Comparison:
    good: list[Mapping[str, float]] = []
    voided: list[str] = []
    while len(good) < rounds:
        try:
            entry = one_round()
        except RoundVoid as error:
            voided.append(str(error))
            if len(voided) > SPARE_ROUNDS:
                raise Void(f"{len(voided)} rounds met errors: {voided}") from error
        else:
            good.append(entry)
    return judged(good, voided)


def judged(rounds: Sequence[Mapping[str, float]], voided: Sequence[str] = ()) -> Comparison:
    """The arithmetic: of every round `ours` and `ours_again` are the control, and their mean is compared."""
    peers = [name for name in rounds[0] if name not in ("ours", "ours_again")]
    means = [(entry["ours"] + entry["ours_again"]) / 2 for entry in rounds]
    return Comparison(
        ours=Spread.of(means),
        peers={name: Spread.of([entry[name] for entry in rounds]) for name in peers},
        ratios={
            name: Spread.of([mean / entry[name] for mean, entry in zip(means, rounds, strict=True)]) for name in peers
        },
        control=Spread.of([entry["ours"] / entry["ours_again"] for entry in rounds]),
        rounds=rounds,
        voided=voided,
    )


def as_raw(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison)


# --- What is read off processes


_ALL = frozenset(os.sched_getaffinity(0))  # before anybody is pinned
_SERVERS = {min(_ALL)}


def server_cores() -> set[int]:
    """Where what is measured runs, alone."""
    return _SERVERS


def other_cores() -> set[int]:
    """Where the load, the database and the vendors' doubles run: all that is left, on two cores the other one."""
    return set(_ALL - _SERVERS or _ALL)


def pin(pid: int, cores: set[int]) -> None:
    """The process, its threads and its children, as far as they are there; what they start later inherits it."""
    for process in family(pid):
        # Whatever has ended meanwhile needs no core: a connection's process of PostgreSQL, a thread.
        with suppress(FileNotFoundError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), cores)


def family(pid: int) -> list[psutil.Process]:
    """A process and its children, however deep."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Processor time so far, of the process and its children."""
    total = 0.0
    for process in family(pid):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def pss_mb(pid: int) -> float:
    """Memory as PSS, shared pages divided among those who share them, of the process and its children."""
    return sum(process.memory_full_info().pss for process in family(pid)) / 1e6


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
