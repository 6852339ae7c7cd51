"""The faults of a seed are its own, and each kind of them comes."""

from itertools import islice

import pytest

from tests.chaos import faults


@pytest.mark.parametrize("kinds", [faults.MEMBERS, faults.CLUSTER], ids=["members", "cluster"])
def test_same_seed_gives_the_same_faults_in_the_same_order(kinds: dict[str, faults.Fault]) -> None:
    first, again, other = (list(islice(faults.schedule(kinds, seed, "track"), 50)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert {step.fault for step in first[: len(kinds)]} == set(kinds), "each comes once before any comes again"
