"""Each planted fault is caught by the test that its catalogue entry names."""

import pytest

from support.mutants import MINIMUM, catalogue, is_caught, mutated

MUTANTS = list(catalogue())


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m.block}-{n}" for n, m in enumerate(MUTANTS)])
def test_mutant_is_caught(mutant):
    caught, output = is_caught(mutant)
    assert caught, f"{mutant} survived {mutant.test}:\n{output}"


def test_every_block_has_mutants_that_still_apply():
    """Cheap enough for every run: a catalogue that no longer matches the gateware is found at once."""
    blocks = {mutant.block for mutant in MUTANTS}
    for block in blocks:
        assert sum(mutant.block == block for mutant in MUTANTS) >= MINIMUM, block
    for mutant in MUTANTS:
        mutated(mutant)
