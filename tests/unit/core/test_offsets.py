"""What is done of a partition, whatever is delivered, done, committed and restarted, in any order."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.core.offsets import METADATA_BYTES_MAX, Note, Progress, read_note

OFFSET_MAX = 2**63 - 1
SUSPECTS = st.just((None, 0)) | st.tuples(st.integers(0, OFFSET_MAX), st.integers(0, 10**6))
RUNS = st.lists(st.integers(1, 300), max_size=60).map(
    lambda steps: tuple((sum(steps[:at]), sum(steps[: at + 1])) for at in range(1, len(steps) - 1, 2)),
)


class Partition(RuleBasedStateMachine):
    """A partition with holes, a worker that finishes out of order, and what the group has committed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.end = 0
        self.delivered = 0
        self.done: set[int] = set()
        self.open: list[int] = []
        self.progress = Progress(0)
        self.lowest = 0
        self.committed: tuple[int, str, frozenset[int]] = (0, "", frozenset())

    @initialize(start=st.integers(0, 2**40))
    def begin(self, start: int) -> None:
        self.end = self.lowest = start
        self.progress = Progress(start)
        self.committed = (start, "", frozenset())

    @rule(holes=st.lists(st.sampled_from((0, 0, 0, 1, 3, 200, 40_000)), min_size=1, max_size=12))
    def written(self, holes: list[int]) -> None:
        for hole in holes:
            self.log.append(self.end + hole)
            self.end = self.log[-1] + 1

    @rule(count=st.sampled_from((1, 1, 1, 2, 3, 12)))
    def deliver(self, count: int) -> None:
        for offset in self.log[self.delivered : self.delivered + count]:
            wanted = self.progress.deliver(offset)
            assert wanted == (offset not in self.done), "what is not done is wanted, and nothing else"
            assert not self.progress.deliver(offset), "once"
            if wanted:
                self.open.append(offset)
            self.delivered += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.progress.done(offset)
        self.done.add(offset)

    @precondition(lambda self: self.delivered == len(self.log))
    @rule(markers=st.integers(0, 3))
    def reach_the_end(self, markers: int) -> None:
        self.end += markers
        self.progress.reached(self.end)

    @rule(clean=st.booleans(), suspect=SUSPECTS, and_restart=st.booleans())
    def commit(self, clean: bool, suspect: tuple[int | None, int], and_restart: bool) -> None:
        offset = self.progress.committable
        note = Note(clean, self.progress.ahead(), *suspect)
        text = note.text(offset)
        assert len(text) <= METADATA_BYTES_MAX
        assert read_note(text, offset) == note
        self.committed = (offset, text, frozenset(self.done))
        if and_restart:
            self.restart("ours")

    @rule(note=st.sampled_from(("ours", "ours", "ours", "another program's", "another offset's")))
    def restart(self, note: str) -> None:
        offset, text, done = self.committed
        if note == "another program's":
            text = "some other words; with semicolons;;;"
        elif note == "another offset's":
            text = Note(done=((offset + 1, offset + 50),)).text(offset + 1)
        if note != "ours":
            done = frozenset(each for each in done if each < offset)
        self.done = set(done)
        self.open = []
        self.progress = Progress(offset, read_note(text, offset).done)
        self.delivered = sum(each < offset for each in self.log)
        self.lowest = offset
        # What a restart reads now is what any later one has to know as well.
        self.committed = (offset, Note(False, self.progress.ahead()).text(offset), done)

    @invariant()
    def nothing_open_is_below_what_may_be_committed(self) -> None:
        committable = self.progress.committable
        assert all(offset in self.done for offset in self.log if offset < committable)

    @invariant()
    def it_never_goes_back_and_never_stays_behind(self) -> None:
        committable = self.progress.committable
        assert committable >= self.lowest
        self.lowest = committable
        if self.open:
            assert committable == min(self.open)
        elif self.delivered:
            assert committable > self.log[self.delivered - 1]

    @invariant()
    def it_knows_how_much_is_open(self) -> None:
        assert self.progress.open == len(self.open)

    @invariant()
    def only_what_is_done_is_noted(self) -> None:
        ahead = self.progress.ahead()
        assert not [offset for offset in self.log if _within(offset, ahead) and offset not in self.done]


Partition.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestPartition = Partition.TestCase


def _within(offset: int, runs: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= offset < last for first, last in runs)


def test_highest_seen_is_not_mistaken_for_highest_done() -> None:
    """What parallel-consumer lost records by (its issue 826)."""
    progress = Progress(0)
    for offset in range(5):
        progress.deliver(offset)
    for offset in (1, 2, 4):
        progress.done(offset)
    assert (progress.committable, progress.ahead()) == (0, ((1, 3), (4, 5)))
    progress.done(0)
    assert (progress.committable, progress.ahead()) == (3, ((4, 5),))


def test_done_run_that_begins_at_the_commit_stays_in_the_note() -> None:
    """The record below it is done, it was not delivered again yet: a death now must not do it again."""
    progress = Progress(5, ((6, 8), (9, 10)))
    progress.deliver(5)
    progress.done(5)
    note = read_note(Note(done=progress.ahead()).text(progress.committable), progress.committable)
    again = Progress(progress.committable, note.done)
    assert [offset for offset in range(6, 12) if again.deliver(offset)] == [8, 10, 11]


@given(
    offset=st.integers(0, OFFSET_MAX - 10**9),
    steps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    times=st.integers(1, 400),
    suspect=SUSPECTS,
)
@settings(max_examples=60)
def test_runs_that_do_not_fit_are_done_again_and_none_is_made_up(
    offset: int,
    steps: list[int],
    times: int,
    suspect: tuple[int | None, int],
) -> None:
    runs: list[tuple[int, int]] = []
    at = offset
    for step in steps * times:
        runs.append((at + step, at + 2 * step))
        at = runs[-1][1]
    text = Note(False, tuple(runs), *suspect).text(offset)
    assert len(text.encode()) <= METADATA_BYTES_MAX
    note = read_note(text, offset)
    assert note.done == tuple(runs[: len(note.done)]), "the ones next to the commit, whole"
    assert (note.suspect, note.tries, note.clean) == (*suspect, False)
    assert len(note.done) == len(runs) or len(text) > METADATA_BYTES_MAX - 200, "cut only where it does not fit"


def test_thousands_of_gaps_are_crowded_before_they_are_cut() -> None:
    progress = Progress(0)
    for offset in range(10_000):
        progress.deliver(offset)
        if offset % 2:
            progress.done(offset)
        if progress.crowded:
            break
    offset, ahead = progress.committable, progress.ahead()
    assert len(ahead) > 1_000
    assert read_note(Note(done=ahead).text(offset), offset).done == ahead
    for open_ in range(0, progress.open * 2, 2):
        progress.done(open_)
    assert not progress.crowded


@given(
    text=st.none()
    | st.text()
    | st.tuples(
        st.sampled_from(("1", "2", "")),
        st.sampled_from(("7", "8")),
        st.sampled_from(("stopped", "running", "")),
        st.text("0123456789x-_ ", max_size=8) | st.text(max_size=4),
        st.text("ABCgw_-=", max_size=40) | st.text(max_size=8),
    ).map(";".join),
)
@settings(max_examples=500)
def test_any_words_can_be_read_and_what_follows_them_can_be_committed(text: str | None) -> None:
    note = read_note(text, 7)
    progress = Progress(7, note.done)
    assert len(Note(False, progress.ahead(), note.suspect, note.tries).text(7)) <= METADATA_BYTES_MAX
    for offset in range(7, 60):
        assert progress.deliver(offset) != _within(offset, note.done)


@given(digits=st.integers(1, 4_050))
def test_forged_number_does_not_make_the_next_commit_too_long(digits: int) -> None:
    note = read_note(f"1;7;running;{'9' * digits}x1;", 7)
    runs = tuple((at, at + 1) for at in range(9, 10_000, 2))
    assert len(Note(False, runs, note.suspect, note.tries).text(7)) <= METADATA_BYTES_MAX


@given(
    offset=st.integers(0, OFFSET_MAX),
    clean=st.booleans(),
    runs=RUNS,
    suspect=st.none() | st.integers(0, 9),
    data=st.data(),
)
def test_note_beside_another_offset_says_nothing(
    offset: int, clean: bool, runs: Any, suspect: int | None, data: st.DataObject
) -> None:
    text = Note(clean, tuple((offset + first, offset + last) for first, last in runs), suspect, 1).text(offset)
    assert read_note(text, offset).done == tuple((offset + first, offset + last) for first, last in runs)
    other = data.draw(st.integers(0, OFFSET_MAX).filter(lambda it: it != offset))
    assert read_note(text, other) == Note()


@given(
    start=st.integers(0, 5),
    steps=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True).map(sorted), max_size=4),
    done=st.lists(st.tuples(st.integers(0, 10), st.integers(1, 5)), max_size=2),
)
def test_run_that_is_delivered_at_once_counts_as_its_offsets_do_one_by_one(
    start: int, steps: list[list[int]], done: list[tuple[int, int]]
) -> None:
    runs = [(first, first + length) for first, length in done]
    one_by_one, at_once = Progress(start, runs), Progress(start, runs)
    for offsets in steps:
        fresh = [offset for offset in offsets if one_by_one.deliver(offset)]
        if not at_once.deliver_run(offsets):
            assert [offset for offset in offsets if at_once.deliver(offset)] == fresh
        assert (at_once.open, at_once.committable, at_once.ahead()) == (
            one_by_one.open, one_by_one.committable, one_by_one.ahead(),
        )  # fmt: skip
        at_once.done_run(fresh)
        for offset in fresh:
            one_by_one.done(offset)
        assert (at_once.committable, at_once.ahead()) == (one_by_one.committable, one_by_one.ahead())
