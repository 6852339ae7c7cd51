"""Lanes, against a model that says exactly which items may run next."""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.core.ordering import Lanes

LANES = st.sampled_from("abcd")


@dataclass(eq=False)
class Item:
    number: int
    lane: str


class Hands(RuleBasedStateMachine):
    """Hands that take, finish from the front, put back from the rear, hold lanes for a while, and items that go away."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[Item] = Lanes()
        self.waiting: dict[str, list[Item]] = {}
        self.in_hand: dict[str, list[Item]] = {}
        self.held: dict[str, float] = {}
        self.now = 0.0
        self.added = 0
        self.left: list[Item] = []

    @rule(lanes=st.lists(LANES, min_size=1, max_size=8))
    def add(self, lanes: list[str]) -> None:
        for lane in lanes:
            item = Item(self.added, lane)
            self.added += 1
            self.lanes.add(lane, item)
            self.waiting.setdefault(lane, []).append(item)

    @rule(limit=st.sampled_from((1, 1, 2, 3, 100)))
    def take(self, limit: int) -> None:
        expected: list[Item] = []
        busy = set(self.in_hand)
        while len(expected) < limit:
            heads = [
                items[0] for lane, items in self.waiting.items() if items and lane not in busy and lane not in self.held
            ]
            if limit == 1 and expected:
                break
            if not heads:
                break
            oldest = min(heads, key=lambda item: item.number)
            expected.append(oldest)
            self.waiting[oldest.lane].pop(0)
            self.in_hand.setdefault(oldest.lane, []).append(oldest)
        taken = self.lanes.take(limit)
        assert [lane for lane, _ in taken] == [item.lane for item in expected]
        assert [item.number for _, item in taken] == [item.number for item in expected], "the oldest ready head first"

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.in_hand)))
        item = self._out(lane, 0)
        self.lanes.release(lane, item)
        self.left.append(item)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), wait=st.sampled_from((0.0, 0.0, 1.0, 5.0)), all_of_it=st.booleans())
    def put_back(self, data: st.DataObject, wait: float, all_of_it: bool) -> None:
        lane = data.draw(st.sampled_from(sorted(self.in_hand)))
        due = self.now + wait if wait else 0.0
        for _ in range(len(self.in_hand[lane]) if all_of_it else 1):
            item = self._out(lane, -1)
            self.lanes.put_back(lane, item, due)
            self.waiting.setdefault(lane, []).insert(0, item)
            if due:
                self.held[lane] = max(due, self.held.get(lane, 0.0))

    @rule(passed=st.sampled_from((0.0, 0.5, 1.0, 10.0)))
    def wake(self, passed: float) -> None:
        self.now += passed
        self.lanes.wake(self.now)
        self.held = {lane: due for lane, due in self.held.items() if due > self.now}

    @rule(gone=st.sets(LANES, max_size=2), odd=st.booleans())
    def remove(self, gone: set[str], odd: bool) -> None:
        def is_gone(item: Item) -> bool:
            return item.lane in gone and (not odd or item.number % 2 == 1)

        expected = [item for items in self.waiting.values() for item in items if is_gone(item)]
        removed = self.lanes.remove(is_gone)
        assert sorted(map(_number, removed)) == sorted(map(_number, expected))
        self.left += removed
        for lane in {item.lane for item in removed}:
            self.held.pop(lane, None)
        self.waiting = {lane: [item for item in items if not is_gone(item)] for lane, items in self.waiting.items()}

    @invariant()
    def it_tells_what_it_has(self) -> None:
        assert len(self.lanes) == sum(map(len, self.waiting.values()))
        assert self.lanes.in_hand == sum(map(len, self.in_hand.values()))
        assert sorted(map(_number, self.lanes.taken)) == sorted(
            item.number for items in self.in_hand.values() for item in items
        )
        for lane, items in self.waiting.items():
            assert list(self.lanes.of(lane)) == items, "in its order, nothing lost or doubled"

    @invariant()
    def held_lanes_are_looked_after_in_time(self) -> None:
        due = self.lanes.next_due
        assert not self.held or (due is not None and due <= min(self.held.values()))

    def teardown(self) -> None:
        """In the end everything drains."""
        for lane in list(self.in_hand):
            while lane in self.in_hand:
                item = self._out(lane, 0)
                self.lanes.release(lane, item)
                self.left.append(item)
        self.lanes.wake(self.now + 1_000)
        self.held = {}
        last: dict[str, int] = {}
        while taken := self.lanes.take(3):
            for lane, item in taken:
                assert last.get(lane, -1) < item.number
                last[lane] = item.number
                self.lanes.release(lane, item)
                self.left.append(item)
        assert sorted(map(_number, self.left)) == list(range(self.added))
        assert (len(self.lanes), self.lanes.in_hand) == (0, 0)

    def _out(self, lane: str, at: int) -> Item:
        item = self.in_hand[lane].pop(at)
        if not self.in_hand[lane]:
            del self.in_hand[lane]
        return item


Hands.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestHands = Hands.TestCase


def _number(item: Any) -> int:
    return item.number


def test_lane_that_goes_back_to_the_front_is_as_old_as_its_first_item() -> None:
    lanes: Lanes[str] = Lanes()
    for lane, item in (("a", "a1"), ("b", "b1"), ("c", "c1"), ("a", "a2")):
        lanes.add(lane, item)
    assert lanes.take(2) == [("a", "a1"), ("b", "b1")]
    lanes.put_back("a", "a1")
    assert lanes.take(1) == [("a", "a1")], "older than c1"


def test_lane_whose_head_is_gone_is_as_old_as_its_next_item() -> None:
    lanes: Lanes[str] = Lanes()
    for lane, item in (("a", "a1"), ("b", "b1"), ("a", "a2")):
        lanes.add(lane, item)
    lanes.remove(lambda item: item == "a1")
    assert lanes.take(1) == [("b", "b1")], "older than a2"
