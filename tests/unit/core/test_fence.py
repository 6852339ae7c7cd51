"""The order of a key through retry topics: the rule, and one partition that lives by it while workers die."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.core.fence import Fence
from pipeline.core.retry import GiveUp, InPlace, RetryPolicy

KEYS = (b"a", b"b")


def test_key_is_free_when_the_last_of_its_records_has_left_the_later_tiers() -> None:
    fence = Fence()
    fence.park(1, 10, b"a")
    fence.park(1, 11, b"a")
    fence.park(3, 4, b"a")
    assert [fence.tier_after(tier, b"a") for tier in range(4)] == [1, 3, 3, None]
    assert (fence.tier_after(0, b"b"), fence.tier_after(0, None)) == (None, None)
    fence.settle(1, 10)
    assert fence.tier_after(0, b"a") == 1
    fence.settle(1, 11)
    assert fence.tier_after(0, b"a") == 3
    fence.settle(3, 4)
    assert (fence.tier_after(0, b"a"), len(fence)) == (None, 0)


def test_same_place_parked_twice_counts_once_and_what_was_never_parked_is_no_matter() -> None:
    fence = Fence()
    fence.park(1, 10, b"a")
    fence.park(1, 10, b"a")
    fence.park(1, 11, None)
    fence.settle(2, 10)
    assert len(fence) == 1
    fence.settle(1, 10)
    fence.settle(1, 10)
    assert fence.tier_after(0, b"a") is None


@dataclass
class Parked:
    """One record as it lies in one tier; `number` is its place in the source, `attempts` how often it failed before."""

    number: int
    key: bytes
    attempts: int = 0


@dataclass
class Tier:
    """A topic's partition: what lies there, what of it is done, and what of that the group has committed."""

    log: list[Parked] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    committed: set[int] = field(default_factory=set)


class Partition(RuleBasedStateMachine):
    """Records of one partition, one key's at a time, of which some fail; a death forgets all that is not committed."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = RetryPolicy(attempts=2, tiers=(5.0, 60.0, 600.0))
        self.tiers = [Tier() for _ in range(4)]
        self.fence = Fence()
        self.failures_here: Counter[tuple[int, int]] = Counter()
        self.effects: dict[bytes, list[int]] = {key: [] for key in KEYS}
        self.letters: set[int] = set()

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    def written(self, keys: list[bytes]) -> None:
        source = self.tiers[0].log
        for key in keys:
            source.append(Parked(len(source), key))

    @precondition(lambda self: self._heads())
    @rule(
        head=st.integers(0, 7),
        outcome=st.sampled_from(("handled", "handled", "failed", "failed", "failed", "rejected")),
        after=st.sampled_from((None, None, None, 30.0, 600.0)),
    )
    def work(self, head: int, outcome: str, after: float | None) -> None:
        heads = self._heads()
        tier, offset = heads[head % len(heads)]
        record = self.tiers[tier].log[offset]
        key = record.key
        behind = self.fence.tier_after(tier, key)
        if behind is not None:
            self._move(tier, offset, behind)
        elif outcome == "handled":
            self.effects[key].append(record.number)
            self._settle(tier, offset)
        elif outcome == "rejected":
            self._give_up(tier, offset)
        else:
            self.failures_here[tier, offset] += 1
            attempts = record.attempts + self.failures_here[tier, offset]
            decision = self.policy.decide(tier, attempts, 0.0, after)
            if isinstance(decision, GiveUp):
                self._give_up(tier, offset)
            elif not isinstance(decision, InPlace):
                self._move(tier, offset, decision.tier)

    @rule(tiers=st.sets(st.integers(0, 3), min_size=1))
    def commit(self, tiers: set[int]) -> None:
        """Not always of all at once: in care each partition is committed alone."""
        for tier in tiers:
            self.tiers[tier].committed = set(self.tiers[tier].done)

    @precondition(lambda self: any(tier.done != tier.committed for tier in self.tiers))
    @rule()
    def die(self) -> None:
        self.fence = Fence()
        self.failures_here.clear()
        for number, tier in enumerate(self.tiers):
            tier.done = set(tier.committed)
            for offset, record in enumerate(tier.log):
                if number and offset not in tier.done:
                    self.fence.park(number, offset, record.key)

    @invariant()
    def first_effects_of_a_key_are_in_the_order_of_the_source(self) -> None:
        for effects in self.effects.values():
            first = [number for number in dict.fromkeys(effects) if number not in self.letters]
            assert first == sorted(first)

    @invariant()
    def fence_holds_exactly_what_is_parked(self) -> None:
        parked = [
            (number, record.key)
            for number, tier in enumerate(self.tiers)
            for offset, record in enumerate(tier.log)
            if number and offset not in tier.done
        ]
        assert len(self.fence) == len(parked)
        for key in KEYS:
            for tier in range(4):
                later = [number for number, parked_key in parked if parked_key == key and number > tier]
                assert self.fence.tier_after(tier, key) == min(later, default=None)

    def teardown(self) -> None:
        """Without further failures everything comes to an end, and still in order."""
        for _ in range(10_000):
            if all(len(tier.done) == len(tier.log) for tier in self.tiers):
                break
            self.work(0, "handled", None)
        source = self.tiers[0].log
        assert {record.number for record in source} == {
            *self.letters,
            *(n for its in self.effects.values() for n in its),
        }
        self.first_effects_of_a_key_are_in_the_order_of_the_source()

    def _heads(self) -> list[tuple[int, int]]:
        """The first one of each key in each tier: lanes let no other of the key be in hand there."""
        return [
            (number, offset)
            for number, tier in enumerate(self.tiers)
            for key in KEYS
            for offset in [next((at for at, it in enumerate(tier.log) if it.key == key and at not in tier.done), None)]
            if offset is not None
        ]

    def _move(self, tier: int, offset: int, to: int) -> None:
        there = self.tiers[to]
        record = self.tiers[tier].log[offset]
        attempts = record.attempts + self.failures_here[tier, offset]
        there.log.append(Parked(record.number, record.key, attempts))
        self.fence.park(to, len(there.log) - 1, record.key)
        self._settle(tier, offset)

    def _give_up(self, tier: int, offset: int) -> None:
        self.letters.add(self.tiers[tier].log[offset].number)
        self._settle(tier, offset)

    def _settle(self, tier: int, offset: int) -> None:
        self.tiers[tier].done.add(offset)
        self.fence.settle(tier, offset)


Partition.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPartition = Partition.TestCase


@pytest.mark.parametrize("start", [1, 2])
def test_record_follows_to_the_lowest_later_tier_because_the_youngest_wait_there(start: int) -> None:
    fence = Fence()
    for tier in range(start, 4):
        fence.park(tier, 0, b"a")
    assert fence.tier_after(0, b"a") == start
