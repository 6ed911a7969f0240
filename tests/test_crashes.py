"""The crash table: a process is killed at every boundary of every journey, and the job still ends as promised.

Real processes, a real PostgreSQL, the real Replicate client over HTTP against the double, whose own books say how
often was paid. Nothing waits for a lease: the rows are put forward in time.
"""

import re
from collections.abc import Iterator
from random import Random

import pytest

from shared.settings import Settings
from tests.crash_points import CRASH_POINTS, JOURNEYS
from tests.crash_world import World
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.dying_process import Life, live

PAIRS = 40
# After these the world is another one. What only reads, or tells what is lost again as time passes, changes nothing.
LASTING = r"after (commit|storage|predictor\.(start|cancel))"
# More boundaries than a process passes on the way from a crash to the job's end.
BOUNDARIES_MAX = 96


def crash_points(kinds: str) -> pytest.MarkDecorator:
    """The points whose boundary's name begins so, as `name` of the journey and `number` of the boundary."""
    points = [point for point in CRASH_POINTS if re.match(kinds, boundary(*point))]
    return pytest.mark.parametrize(
        ("name", "number"), points, ids=[f"{point[0]}: {boundary(*point)}" for point in points]
    )


def boundary(name: str, number: int) -> str:
    return JOURNEYS[name].boundaries[number]


@pytest.fixture(scope="module")
def replicate() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "60", "--start-seconds", "0.1", "--predict-seconds", "1") as double:
        yield double


class Crashes:
    def __init__(self, settings: Settings, replicate: DoubledReplicate) -> None:
        self.replicate = replicate
        self.settings = Settings(
            _env_file=None,
            **{
                **settings.model_dump(),
                "predictor": "replicate",
                "replicate_api_token": replicate.token,
                "replicate_base_url": replicate.url,
                "check_interval_seconds": 0.1,
            },
        )
        self.world = World(self.settings)

    def kill(self, name: str, number: int) -> Life:
        """Arrange the journey anew, and kill its process at this boundary."""
        self.replicate.reset()
        self.world.empty()
        JOURNEYS[name].arrange(self.world, self.replicate)
        return live(self.settings, JOURNEYS[name].step, deadly=number)

    def go_on(self, name: str, deadly: int | None = None) -> Life:
        """Somebody goes on, in a process that may be killed, too."""
        return live(self.settings, "go_on", *self._asked(name), deadly=deadly)

    def go_on_and_check(self, name: str) -> None:
        self.world.go_on(*self._asked(name))
        self.world.check(JOURNEYS[name].ends, self.replicate)

    def _asked(self, name: str) -> list[str]:
        asked = JOURNEYS[name].asked
        return [asked] if asked else []


@pytest.fixture
def crashes(settings: Settings, replicate: DoubledReplicate) -> Iterator[Crashes]:
    crashes = Crashes(settings, replicate)
    yield crashes
    crashes.world.engine.dispose()


@crash_points("before|after")
def test_a_process_killed_at_any_boundary_costs_nothing(crashes: Crashes, name: str, number: int) -> None:
    life = crashes.kill(name, number)
    assert life.passed == JOURNEYS[name].boundaries[: number + 1], "the table must name every boundary"
    assert life.killed
    crashes.go_on_and_check(name)


@pytest.mark.parametrize("name", JOURNEYS)
def test_the_table_goes_to_the_journeys_end(crashes: Crashes, name: str) -> None:
    life = crashes.kill(name, BOUNDARIES_MAX)
    assert life.passed == JOURNEYS[name].boundaries
    assert not life.killed
    crashes.go_on_and_check(name)


@pytest.mark.parametrize("seed", range(PAIRS))
def test_a_pair_of_crashes_costs_nothing(crashes: Crashes, seed: int) -> None:
    """A sample; `make crashes` takes every pair."""
    chance = Random(seed)
    name, number = chance.choice(CRASH_POINTS)
    second, killed = BOUNDARIES_MAX, False
    while not killed:  # it may have come to the job's end before: draw again below
        second = chance.randrange(second)
        crashes.kill(name, number)
        killed = crashes.go_on(name, deadly=second).killed
        crashes.go_on_and_check(name)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@crash_points(LASTING)
def test_every_pair_of_crashes_costs_nothing(crashes: Crashes, name: str, number: int) -> None:
    """Every pair of states that a crash can leave behind: nothing lasting happens from one of these to the next."""
    crashes.kill(name, number)
    undisturbed = crashes.go_on(name)
    crashes.go_on_and_check(name)
    for second, passed in enumerate(undisturbed.passed):
        if re.match(LASTING, passed):
            crashes.kill(name, number)
            crashes.go_on(name, deadly=second)
            crashes.go_on_and_check(name)
