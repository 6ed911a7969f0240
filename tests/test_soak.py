"""The soak: a short one over the real processes, and how what it saw is judged."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.soak import weather
from tests.soak.figures import GROWTH_MAX, growing_tables, growth, queue_ages, recoveries
from tests.soak.run import soak

MEGABYTE = 1024 * 1024


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_short_soak_breaks_no_promise(open_dir: Path) -> None:
    figures = soak(0.2, 1, open_dir / "soak", share=0.3, tell=lambda _: None)
    assert figures["violations"] == []
    assert figures["broken"] == []
    assert figures["accepted"] == sum(figures["jobs"].values()) == 9  # every 1.33 s of 12 s
    assert sum(figures["faults"].values()) == 1
    assert figures["memory"].keys() == {"api", "worker", "worker-2", "beat"}
    assert all(about["first_bytes"] > 10 * MEGABYTE for about in figures["memory"].values())
    assert {"users", "jobs", "photos", "loose_objects"} <= figures["tables"].keys()


def test_the_weather_of_a_seed_is_always_the_same_and_spares_what_is_measured() -> None:
    faults = [fault for seed in range(40) for fault in weather.draw(seed, 1800, 15)]
    assert faults == [fault for seed in range(40) for fault in weather.draw(seed, 1800, 15)]
    assert all(fault.after_seconds < 1800 for fault in faults)
    killed = {fault.target for fault in faults if fault.act in ("SIGKILL", "SIGTERM") and fault.after_seconds > 600}
    assert killed == {"worker-2", "postgres", "redis"}
    assert {"worker", "api", "beat", "every worker"} <= {fault.target for fault in faults if fault.act == "SIGKILL"}
    [alone] = weather.draw(1, 12, 15)
    assert alone.after_seconds == 4
    for seed in range(40):
        moments = [fault.after_seconds for fault in weather.draw(seed, 1800, 15)]
        assert all(25 <= then - at <= 65 for at, then in pairwise(moments))


def life(per_minute: float, *, begin: float = 0, minutes: int = 25, peak: float = 0) -> list[tuple[float, float]]:
    """One process's memory: 100, growing, twice as large while it starts, and with a peak every third sample."""
    times = range(0, minutes * 60, 20)
    return [
        (begin + at, (200 if at < 240 else 100 + per_minute * at / 60) + (peak if at // 20 % 3 == 0 else 0))
        for at in times
    ]


def test_growth_is_that_of_the_warm_level_whatever_comes_and_goes() -> None:
    assert growth([life(0.0, peak=30)]) == pytest.approx(0, abs=1e-9)
    grown = growth([life(0.5, peak=30)])
    assert grown is not None
    assert GROWTH_MAX < grown < 0.06
    # Two lives are not one that has fallen.
    assert growth([life(0.0), life(0.0, begin=3000)]) == pytest.approx(0, abs=1e-9)


def test_growth_of_short_lives_is_not_known() -> None:
    assert growth([life(5, minutes=9)] * 10) is None
    assert growth([]) is None


def test_a_table_that_grows_is_found_unless_it_is_history() -> None:
    ever = [(float(at), at * MEGABYTE) for at in range(90)]
    at_first = [(float(at), min(at, 20) * MEGABYTE) for at in range(90)]
    assert growing_tables({"jobs": ever, "loose_objects": ever, "alembic_version": at_first}) == ["loose_objects"]


def test_the_queue_is_as_old_as_the_photo_that_has_waited_longest() -> None:
    ages = dict(queue_ages([(1.0, 1.2), (2.0, 6.0), (4.0, 5.0)], 8.0))
    assert [ages[at] for at in (0, 1, 2, 3, 4.5, 5.5, 6)] == [0, 0, 0, 1, 2.5, 3.5, 0]


def test_recovery_lasts_until_the_queue_has_been_caught_up_on() -> None:
    ages = queue_ages([(2.0, 12.0), (30.0, 50.0)], 40.0)
    assert recoveries([1.0, 5.0, 35.0], ages) == [0, 7, 5]
