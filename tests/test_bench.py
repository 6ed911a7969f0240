"""The harness of the benchmarks: its arithmetic, and what makes a figure void."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench import __main__ as bench
from bench import charts, harness, report
from bench.charts import draw
from bench.harness import (
    COMPARISONS,
    CONTROL,
    ROUNDS,
    SPARE_ROUNDS,
    Line,
    Measured,
    Must,
    RoundVoid,
    Spread,
    Void,
    compare,
    judged,
    other_cores,
    percentile,
    pin,
    server_cores,
    three_digits,
)


def values(*given: float) -> Callable[[], float]:
    """A run that gives these one after another, and the last one for ever."""
    left = list(given)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_ratio_is_taken_round_by_round_and_the_median_shown() -> None:
    rounds = [
        {"ours": 90.0, "peer": 50.0, "ours_again": 110.0},  # 2
        {"ours": 200.0, "peer": 200.0, "ours_again": 200.0},  # 1
        {"ours": 400.0, "peer": 100.0, "ours_again": 400.0},  # 4
    ]
    comparison = judged(rounds)
    assert comparison.ratios == {"peer": Spread(2, 1, 4)}
    assert comparison.ours == Spread(200, 100, 400)
    assert comparison.control == Spread(1, 90 / 110, 1)


def test_ours_and_the_peers_take_turns() -> None:
    turns: list[str] = []

    def run(name: str) -> Callable[[], float]:
        return lambda: turns.append(name) or 1.0  # type: ignore[func-returns-value]

    comparison = compare(run("ours"), {"a": run("a"), "b": run("b")})
    assert turns == ["ours", "a", "b", "ours"] * ROUNDS
    assert len(comparison.rounds) == ROUNDS >= 5
    assert len(compare(lambda: 1.0, {}, rounds=9).rounds) == 9


@pytest.mark.parametrize("again", [CONTROL[0] - 0.02, CONTROL[1] + 0.02])
def test_a_comparison_whose_control_differs_is_void(again: float) -> None:
    runs = 0

    def ours() -> float:
        nonlocal runs
        runs += 1
        return 1.0 if runs % 2 == 0 else again

    with pytest.raises(Void, match="ours against ours"):
        compare(ours, {"peer": lambda: 1.0})
    assert runs == 2 * ROUNDS * COMPARISONS, "it is made again, and not for ever"


def test_a_noisy_comparison_is_made_again() -> None:
    noisy = [1.0, 2.0] * ROUNDS
    comparison = compare(values(*noisy, 3.0), {"peer": lambda: 1.0})
    assert comparison.ratios["peer"] == Spread(3, 3, 3)


def test_a_round_with_an_error_does_not_count() -> None:
    def failing(times: int) -> Iterator[float]:
        for _ in range(times):
            yield float("nan")
        while True:
            yield 2.0

    def peer(times: int) -> Callable[[], float]:
        given = failing(times)

        def run() -> float:
            value = next(given)
            if value != value:
                raise RoundVoid("500 Internal Server Error")
            return value

        return run

    comparison = compare(lambda: 4.0, {"peer": peer(SPARE_ROUNDS)})
    assert comparison.ratios["peer"] == Spread(2, 2, 2)
    assert len(comparison.voided) == SPARE_ROUNDS
    with pytest.raises(Void, match="500 Internal Server Error"):
        compare(lambda: 4.0, {"peer": peer(SPARE_ROUNDS + 1)})


def test_what_is_measured_keeps_a_core_for_itself() -> None:
    """Also once the harness has gone to the others', from where it starts everything."""
    before = os.sched_getaffinity(0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pin(os.getpid(), other_cores())
        pin(child.pid, server_cores())
        assert os.sched_getaffinity(child.pid) == {min(before)}
        assert len(before) == 1 or not os.sched_getaffinity(child.pid) & os.sched_getaffinity(0)
    finally:
        os.sched_setaffinity(0, before)
        child.communicate(b"\n")


def test_what_has_ended_meanwhile_needs_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = psutil.Process(child.pid)
    child.communicate(b"\n")
    monkeypatch.setattr(harness, "family", lambda _: [seen])
    pin(child.pid, server_cores())


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.95) == 95
    assert percentile([7], 0.99) == 7


def test_a_figure_is_written_as_people_read_it() -> None:
    written = {three_digits(value) for value in (12_345.6, 1000, 999.6, 16.55, 0.852, 0.002581, 0)}
    assert written == {"12,346", "1,000", "16.6", "0.852", "0.00258", "0"}


def test_the_figures_are_kept_beside_those_of_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(charts, "CHARTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nolder figures\n{report.END}\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    line = Line("ratio_a", "polls", 0.851234, Must(">=", 0.85))
    bench.keep({"P1": Measured("Polls", [line], raw={"seen": [1, 2]}, bars={"ours": 2, "a peer": 1}, unit="/s")})
    bench.keep({"P9": Measured("Memory", [Line("pss_mb", "idle", 251, Must("<=", 250))])})
    assert json.loads((tmp_path / "latest.json").read_text()) == {"P1": {"ratio_a": 0.8512}, "P9": {"pss_mb": 251}}
    assert json.loads((tmp_path / "P1.json").read_text())["seen"] == {"seen": [1, 2]}
    assert (line.met, Must("<=", 250).met(251)) == (True, False)
    told = page.read_text()
    assert told.startswith("before\n")
    assert told.endswith("after\n")
    assert "older figures" not in told
    assert "![Polls](bench-p1.svg)" in told
    assert "| polls |  |  |  | 0.851 | >= 0.85 | yes |" in told
    assert "### P9: Memory" in told
    first = (tmp_path / "bench-p1.svg").read_bytes()
    draw(Measured("Polls", [], bars={"ours": 2, "a peer": 1}, unit="/s"), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == first, "the same figures draw the same chart"
