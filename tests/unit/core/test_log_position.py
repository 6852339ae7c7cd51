"""Where reading begins: every case of a committed offset held against a log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.log_position import Bounds, Kind, moved, start
from pipeline.core.offsets import METADATA_BYTES_MAX, Note, Progress, read_note, topic_id_of
from pipeline.core.record import TopicPartition

P0 = TopicPartition("orders.v1", 0)
LOG = Bounds(20, 100, "this")


def test_offset_that_the_log_holds_is_where_it_goes_on_with_all_that_its_note_says() -> None:
    note = Note(clean=False, done=((50, 60),), suspect=45, tries=2)
    for offset in (20, 40, 100):
        text = note.text(offset, "this") if offset == 40 else ""
        it = start(P0, offset, text, LOG)
        assert (it.offset, it.finding) == (offset, None)
        assert it.note == (note if offset == 40 else Note())


def test_offset_beyond_the_end_is_of_another_log_which_is_read_from_its_beginning() -> None:
    it = start(P0, 1000, Note(clean=False, done=((1001, 1003),)).text(1000), LOG)
    assert (it.offset, it.note) == (20, Note()), "what the note says is of the other log"
    assert it.finding is not None
    assert (it.finding.kind, it.finding.offsets, it.finding.missed, it.finding.again) == (
        Kind.BEYOND_THE_END,
        80,
        0,
        True,
    )
    assert "orders.v1 [0]: offset 1000 comes next, but the log holds 20 to 100" in str(it.finding)


@pytest.mark.parametrize("note", [Note(done=((98, 101),)), Note(clean=False, suspect=100, tries=1)])
def test_note_that_knows_of_more_than_the_log_holds_is_of_another_log(note: Note) -> None:
    it = start(P0, 90, note.text(90, "this"), LOG)
    assert (it.offset, it.note, it.finding and it.finding.kind) == (20, Note(), Kind.BEYOND_THE_END)


def test_topic_made_anew_that_has_grown_past_the_offset_is_known_by_its_id() -> None:
    it = start(P0, 50, Note(done=((52, 60),)).text(50, "that"), LOG)
    assert (it.offset, it.note, it.finding and it.finding.kind) == (20, Note(), Kind.ANOTHER_LOG)
    assert start(P0, 50, Note().text(50), LOG).finding is None, "nobody noted which topic it was"
    assert start(P0, 50, Note().text(50, "that"), Bounds(20, 100)).finding is None, "nobody tells which one it is"
    assert start(P0, 50, Note().text(49, "that"), LOG).finding is None, "the note is of another offset"


def test_log_that_was_cut_and_has_grown_past_the_offset_again_is_told_by_the_broker() -> None:
    it = start(P0, 50, Note(done=((52, 60),)).text(50, "this"), LOG, displaced=True)
    assert (it.offset, it.note, it.finding and it.finding.kind) == (20, Note(), Kind.ANOTHER_LOG)


def test_what_retention_took_is_counted_without_what_was_done_of_it_already() -> None:
    note = Note(clean=False, done=((8, 10), (15, 25)), suspect=7, tries=2)
    it = start(P0, 5, note.text(5, "this"), LOG)
    assert it.finding is not None
    assert (it.offset, it.finding.kind, it.finding.missed) == (20, Kind.DELETED, 15 - 2 - 5)
    assert it.note.suspect is None, "that record is gone"
    progress = Progress(it.offset, it.note.done)
    assert [progress.deliver(offset) for offset in range(20, 27)] == [False] * 5 + [True] * 2
    all_done = start(P0, 5, Note(done=((5, 20),)).text(5), LOG)
    assert (all_done.offset, all_done.finding) == (20, None)


@pytest.mark.parametrize("committed", [None, -1, -1001])
def test_group_that_never_committed_begins_at_the_oldest_record_and_says_what_is_gone_before_it(
    committed: int | None,
) -> None:
    it = start(P0, committed, "words of anybody", LOG)
    assert it.finding is not None
    assert (it.offset, it.note, it.finding.kind, it.finding.missed) == (20, Note(), Kind.NEVER_COMMITTED, 0)
    assert start(P0, committed, "", Bounds(0, 100)).finding is None


def test_log_that_moves_while_it_is_read() -> None:
    assert moved(P0, 20, "this", LOG) is None
    assert moved(P0, 100, "this", LOG) is None
    kinds = [
        it and (it.kind, it.offsets)
        for it in (moved(P0, 5, "this", LOG), moved(P0, 101, "", LOG), moved(P0, 50, "that", LOG))
    ]
    assert kinds == [(Kind.DELETED, 15), (Kind.BEYOND_THE_END, 80), (Kind.ANOTHER_LOG, 80)]


@given(
    committed=st.none() | st.integers(-2, 60),
    beginning=st.integers(0, 40),
    held=st.integers(0, 20),
    life=st.sampled_from(("", "this", "that")),
    displaced=st.booleans(),
)
def test_reading_always_begins_inside_the_log_and_skips_nothing_without_a_word(
    committed: int | None, beginning: int, held: int, life: str, displaced: bool
) -> None:
    bounds = Bounds(beginning, beginning + held, "this")
    text = "" if committed is None else Note().text(committed, life)
    it = start(P0, committed, text, bounds, displaced=displaced)
    assert bounds.beginning <= it.offset <= bounds.end
    if it.offset > bounds.beginning:
        assert it.offset == committed
        assert life != "that"
    if committed is not None and committed >= 0 and it.offset != committed:
        assert it.finding is not None


def test_id_of_the_topic_stands_beside_all_else_in_the_metadata() -> None:
    most = 2**63 - 1
    full = Note(
        clean=False, suspect=most, tries=10**6, owner="w" * 32,
        done=tuple((2 * number, 2 * number + 1) for number in range(1, 4000)),
        others=tuple((most - number, 2) for number in range(1, 100)),
    )  # fmt: skip
    for note in (Note(), Note(clean=False, suspect=7, tries=2, others=((9, 1),)), full):
        text = note.text(1, "k" * 22)
        assert len(text) <= METADATA_BYTES_MAX
        assert (topic_id_of(text, 1), topic_id_of(text, 2)) == ("k" * 22, "")
        assert read_note(text, 1) == read_note(note.text(1), 1)
    assert topic_id_of(Note(clean=False, suspect=7, tries=2, others=((9, 1),)).text(1), 1) == ""
