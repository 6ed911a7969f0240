"""The catalogue of planted defects keeps up with the code; `make mutants` plants them and sees them caught."""

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, SIMULATION, Mutant

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_defect_can_be_planted_and_its_check_is_there(mutant: Mutant) -> None:
    source = (PROJECT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    if mutant.caught_by != SIMULATION:
        file, _, test = mutant.caught_by.partition("::")
        assert f"def {test.partition('[')[0]}(" in (PROJECT / file).read_text()


def test_every_promise_is_broken_by_some_defect() -> None:
    assert {mutant.breaks for mutant in MUTANTS} == {f"I{number}" for number in range(1, 12)}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
