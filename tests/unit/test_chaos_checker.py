"""The checker finds each violation that is planted in a history of exactly-once, and nothing in the history itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checker import Kind, check, summary
from tests.chaos.history import History, Outcome, Published, Seen, Sent, Transaction

OUT, LETTERS, RETRY = "out", "letters", "retry"


def clean(count: int = 12, batch: int = 3) -> History:
    """Two source partitions, one output partition, `batch` records in each transaction, one dead letter, one aborted try."""
    history = History(ordered=[OUT], passing=[RETRY])
    offsets, out = {0: 0, 1: 0}, {OUT: 0, LETTERS: 0}
    for first in range(0, count, batch):
        transaction = Transaction(f"t{first}", asked_to_commit=True, outcome=Outcome.OK)
        poll = []
        for number in range(first, min(first + batch, count)):
            partition, name = number % 2, f"id{number}"
            history.sent.append(Sent(name, Outcome.OK))
            history.source.append(Seen("in", partition, number // 2, "", name))
            topic = LETTERS if number == 4 else OUT
            transaction.published.append(Published(topic, name))
            poll.append(Seen(topic, 0, out[topic], f"k{number % 3}", name, transaction.name))
            out[topic] += 1
            offsets[partition] = transaction.offsets[partition] = number // 2 + 1
        out = {topic: offset + 1 for topic, offset in out.items()}  # the marker's
        history.transactions[transaction.name] = transaction
        history.polls.append(poll)
        history.final += poll
        history.commits.append(dict(offsets))
    history.transactions["aborted"] = Transaction("aborted", outcome=Outcome.FAILED, published=[Published(OUT, "id0")])
    return history


@given(st.integers(1, 40), st.integers(1, 7))
def test_nothing_is_found_in_a_history_of_exactly_once(count: int, batch: int) -> None:
    assert check(clean(count, batch)) == []


def test_send_without_an_answer_may_or_may_not_be_there() -> None:
    history = clean()
    history.sent.append(Sent("nobody knows", Outcome.UNKNOWN))
    assert check(history) == []


def test_commit_without_an_answer_may_or_may_not_have_happened() -> None:
    history = clean()
    history.transactions["t0"].outcome = Outcome.UNKNOWN
    history.transactions["gone"] = Transaction("gone", asked_to_commit=True, published=[Published(OUT, "id0")])
    assert check(history) == []


def test_record_in_a_retry_topic_is_on_its_way_but_not_there() -> None:
    history = clean()
    lost = history.final.pop()
    history.polls[-1].remove(lost)
    history.final.append(lost._replace(topic=RETRY))
    transaction = history.transactions[lost.transaction]
    transaction.published[-1] = Published(RETRY, lost.id)
    assert summary(check(history)) == {"unseen": 1}


def lose_a_send(history: History) -> None:
    history.sent.append(Sent("lost", Outcome.OK))


def send_twice(history: History) -> None:
    history.source.append(history.source[-1]._replace(offset=100))
    history.commits[-1][history.source[-1].partition] = 101


def lose_a_write(history: History) -> None:
    """Nothing was ever published of it: its offset was committed before."""
    lost = history.final.pop()
    history.polls[-1].remove(lost)
    history.transactions[lost.transaction].published.pop()


def leave_one_unseen(history: History) -> None:
    history.source.append(Seen("in", 0, 50, "", "waits"))
    history.sent.append(Sent("waits", Outcome.OK))


def forward_twice(history: History) -> None:
    again = history.final[0]._replace(offset=99, transaction="again")
    history.transactions["again"] = Transaction("again", True, Outcome.OK, [Published(OUT, again.id)])
    history.final.append(again)
    history.ordered = ()


def append_twice(history: History) -> None:
    """As a producer that is not idempotent does."""
    history.final.append(history.final[-1]._replace(offset=99))


def show_an_aborted_one(history: History) -> None:
    history.polls[-1].append(Seen(OUT, 0, 99, "k0", "id0", "aborted"))


def show_one_that_never_asked_for_its_commit(history: History) -> None:
    history.polls[-1].append(Seen(OUT, 0, 99, "k0", "id0", "of a process that was killed"))


def tear(history: History) -> None:
    """A part became visible, the rest was aborted, and forwarded again after it."""
    torn = history.transactions["t0"]
    torn.outcome = Outcome.UNKNOWN
    rest = history.final.pop(2)
    history.polls[0].remove(rest)
    history.final.append(rest._replace(offset=99, transaction="rest"))
    history.transactions["rest"] = Transaction("rest", True, Outcome.OK, [Published(OUT, rest.id)])
    history.ordered = ()


def forget_a_committed_one(history: History) -> None:
    history.transactions["t99"] = Transaction("t99", True, Outcome.OK, [Published(OUT, "id0")])


def overtake(history: History) -> None:
    first, second = (next(r for r in history.final if r.id == name) for name in ("id0", "id6"))
    for records in (history.final, *history.polls):
        for index, record in enumerate(records):
            if record.id in {"id0", "id6"}:
                other = second if record.id == "id0" else first
                records[index] = record._replace(partition=other.partition, offset=other.offset)
    history.polls.sort(key=lambda poll: min(r.offset for r in poll))
    history.polls = [sorted((record for poll in history.polls for record in poll), key=lambda r: (r.topic, r.offset))]


def change_what_lies_at_an_offset(history: History) -> None:
    history.polls[0][0] = history.polls[0][0]._replace(id="id1")


def skip(history: History) -> None:
    history.polls[0].pop(0)


def go_back(history: History) -> None:
    history.polls.append(history.polls[0])


def take_an_offset_back(history: History) -> None:
    history.commits.insert(1, {partition: offset - 1 for partition, offset in history.commits[0].items()})


def come_out_ahead_of_the_offset(history: History) -> None:
    history.commits = [{partition: offset - 1 for partition, offset in history.commits[-1].items()}]


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_a_send, Kind.LOST_SEND),
        (send_twice, Kind.DUPLICATE_SEND),
        (lose_a_write, Kind.LOST_WRITE),
        (leave_one_unseen, Kind.UNSEEN),
        (forward_twice, Kind.DUPLICATE),
        (append_twice, Kind.DUPLICATE),
        (show_an_aborted_one, Kind.ABORTED_READ),
        (show_one_that_never_asked_for_its_commit, Kind.ABORTED_READ),
        (tear, Kind.TORN),
        (forget_a_committed_one, Kind.TORN),
        (overtake, Kind.ORDER),
        (change_what_lies_at_an_offset, Kind.INCONSISTENT_OFFSET),
        (skip, Kind.SKIPPED),
        (go_back, Kind.NOT_MONOTONIC),
        (take_an_offset_back, Kind.OFFSET_WENT_BACK),
        (come_out_ahead_of_the_offset, Kind.AHEAD_OF_OFFSET),
    ],
)
def test_planted_violation_is_found_and_nothing_else(plant: Callable[[History], None], kind: Kind) -> None:
    history = replace(clean())
    plant(history)
    assert set(summary(check(history))) == {kind}
