"""What a batch handler says of its records, and what a transform gives: taken, or refused with words, before it counts."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from pipeline.core.record import Keyed, Record
from pipeline.core.retry import RetryPolicy
from pipeline.errors import HandlerFailed, Reject, Retry, SchemaRefused, WrongReturn
from pipeline.stages.returns import outputs, refuse_unfinished, rejects
from tests.stages.forwarding import ForwardBench
from tests.stages.test_consume import Bench, Decoder, records

A, B, C = BATCH = [Record("t", 0, at, key, b"value", (("h", b"1"),)) for at, key in enumerate((b"a", b"b", b"c"))]
NO = Reject("no")


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (None, []),
        ([], []),
        ((), []),
        ([(B, NO)], [1]),
        (((A, NO), (C, NO)), [0, 2]),
        ([[C, NO]], [2]),
        (deque([(B, NO)]), [1]),
        ({(B, NO)}, [1]),
        ({B: NO}.items(), [1]),
        ([(B._replace(), NO)], [1]),
        ([(Record(*C), NO)], [2]),
    ],
)
def test_rejects_are_found_by_their_record(returned: Any, named: list[int]) -> None:
    assert rejects(returned, BATCH) == dict.fromkeys(named, NO)


def test_record_that_is_named_twice_failed_of_both() -> None:
    found = rejects([(B, NO), (B, Retry())], BATCH)
    assert list(found) == [1]
    assert isinstance(found[1], BaseExceptionGroup)
    assert [type(each) for each in found[1].exceptions] == [Reject, Retry]


WRONG: dict[str, Callable[[], Any]] = {
    "events": lambda: [({"id": "a"}, NO)],
    "bare-records": lambda: [A, B],
    "bare-record": lambda: A,
    "one-pair": lambda: (A, NO),
    "exceptions": lambda: [NO],
    "exception": lambda: NO,
    "wrong-order": lambda: [(NO, A)],
    "dict": lambda: {A: NO},
    "class": lambda: [(A, Reject)],
    "without-exception": lambda: [(A, None)],
    "text-for-exception": lambda: [(A, "no")],
    "triple": lambda: [(A, NO, NO)],
    "other-batch": lambda: [(Record("t", 1, 0, b"a", b"value"), NO)],
    "changed-copy": lambda: [(A._replace(value=b"other"), NO)],
    "unhashable-copy": lambda: [(A._replace(headers=[]), NO)],  # type: ignore[arg-type]
    "offsets": lambda: [0, 1],
    "true": lambda: True,
    "count": lambda: 3,
    "text": lambda: "ok",
    "generator": lambda: ((each, NO) for each in (A,)),
    "map": lambda: map(tuple, [[A, NO]]),
    "future": Future,
    "nothing-in-it": lambda: [None],
    "among-good-ones": lambda: [(A, NO), B],
}


@pytest.mark.parametrize("made", WRONG)
def test_what_is_no_record_of_the_batch_with_its_exception_is_refused(made: str) -> None:
    with pytest.raises(WrongReturn, match=r"^returned .*A batch handler returns None, or a list"):
        rejects(WRONG[made](), BATCH)


@pytest.mark.parametrize("made", WRONG)
def test_worker_stops_at_a_batch_whose_rejects_cannot_be_told(made: str) -> None:
    def handle(pairs: list[tuple[dict, Record]]) -> Any:
        return WRONG[made]()

    bench = Bench(records("a", "b"), handle)
    with pytest.raises(HandlerFailed, match=r"orders.v1 \[0\] @ 0") as stopped:
        bench.run()
    assert "test returned " in str(stopped.value)
    assert (bench.letters(), bench.source.committed_offsets) == ([], {})


def test_what_a_batch_handler_wants_tried_again_keeps_the_order_of_its_key() -> None:
    calls: list[list[str]] = []

    def handle(pairs: list[tuple[dict, Record]]) -> Any:
        calls.append([event["id"] for event, _ in pairs])
        return [(record, Retry()) for event, record in pairs if event["id"] == "b" and len(calls) == 1]

    given = [record._replace(key=record.key[:1] if record.key else None) for record in records("a", "b", "b2", "c")]
    bench = Bench(given, handle)
    bench.run()
    assert calls[0] == ["a", "b", "b2", "c"]
    assert [one for call in calls[1:] for one in call] == ["b", "b2"], "what came after it of its key is done again"
    assert bench.stage.totals.committed == 4


def test_batch_that_is_halved_gets_its_events_as_they_were() -> None:
    seen: list[list[Any]] = []

    def handle(pairs: list[tuple[dict, Record]]) -> None:
        seen.append([dict(event) for event, _ in pairs])
        for event, _ in pairs:
            event["id"] = event.pop("id") + "!"
        if len(pairs) > 1:
            raise Retry

    bench = Bench(records("a", "b", "c"), handle)
    bench.run()
    assert [event["id"] for call in seen for event in call if len(call) == 1] == ["a", "b", "c"]
    assert bench.stage.totals.committed == 3


def test_event_that_a_handler_changed_before_it_failed_is_made_anew_for_the_next_try() -> None:
    seen: list[str] = []

    def handle(event: dict, record: Record) -> None:
        seen.append(event["id"])
        event["id"] = "changed"
        if len(seen) < 3:
            raise Retry

    bench = Bench(records("a"), handle)
    bench.run()
    assert seen == ["a", "a", "a"]


@pytest.mark.parametrize(
    "value",
    [Future(), [NO], [(A, NO)], (A, NO), {NO}, Keyed("k", {}), map(str, ()), filter(None, ())],
    ids=lambda it: type(it).__name__,
)
def test_what_says_that_work_is_left_is_refused(value: object) -> None:
    with pytest.raises(WrongReturn, match=r"^returned "):
        refuse_unfinished(value)


# --- transforms


def of(**changes: Any) -> Keyed:
    return Keyed(**{"key": "k", "value": {"id": "x"}} | changes)


def broken() -> Any:
    yield of()
    raise AttributeError("midway")


ODD: dict[str, Callable[[], Any]] = {
    "tuple": lambda: ("k", {"id": "x"}),
    "dict": lambda: {"id": "x"},
    "text": lambda: "k",
    "number": lambda: 7,
    "true": lambda: True,
    "list-of-tuples": lambda: [("k", {"id": "x"})],
    "list-of-dicts": lambda: [{"id": "x"}],
    "none-in-a-list": lambda: [of(), None],
    "number-for-a-key": lambda: of(key=7),
    "none-for-a-key": lambda: of(key=None),
    "text-for-a-value": lambda: of(value="x"),
    "none-for-a-value": lambda: of(value=None),
    "bytes-for-a-value": lambda: of(value=b"x"),
    "number-for-a-topic": lambda: of(topic=7),
    "empty-topic": lambda: of(topic=""),
    "unknown-topic": lambda: [of(), of(topic="nowhere")],
    "its-own-source": lambda: of(topic="orders.v1"),
    "the-dead-letters": lambda: of(topic="orders.dlq.v1"),
    "value-that-does-not-fit": lambda: [of(), of(value={"unfit": 1})],
    "exception": lambda: NO,
    "list-of-exceptions": lambda: [NO],
    "breaks-midway": broken,
    "record": lambda: A,
    "class": lambda: Keyed,
}


@pytest.mark.parametrize("made", ODD)
def test_odd_return_of_a_transform_stops_at_the_record_and_nothing_partial_goes_out(made: str) -> None:
    def transform(event: dict, record: Record) -> Any:
        return ODD[made]() if event["id"] == "x" else of(value=event)

    def encoder(topic: str) -> Any:
        if topic == "nowhere":
            raise SchemaRefused("There is no schema nowhere-value.")
        return bench.encoder

    bench = ForwardBench(
        records("a", "x", "b"), transform, policy=RetryPolicy(tiers=()), decoder=Decoder(), encoder=encoder
    )
    with pytest.raises(HandlerFailed, match=r"orders.v1 \[0\] @ 1") as stopped:
        bench.run(lambda: False)
    assert "That is a bug" in str(stopped.value)
    assert (bench.forwarded(), bench.broker.letters(), bench.committed()) == ([b"a"], [], 1)


def test_key_that_no_text_can_be_written_of_is_a_letter() -> None:
    bench = ForwardBench(records("a"), lambda_transform, policy=RetryPolicy(tiers=()), decoder=Decoder())
    bench.run(lambda: bench.committed() == 1)
    assert [letter["reason"] for letter in bench.broker.letters()] == ["invalid"]


def lambda_transform(event: dict, record: Record) -> Keyed:
    return of(key="\ud800")


def test_outputs_of_every_kind_are_taken() -> None:
    for given in (
        of(),
        [of()],
        (of(),),
        iter([of()]),
        {
            of(value=Frozen()),
        },
    ):
        assert [(topic, key) for topic, key, _ in outputs(given)] == [(None, b"k")]
    assert list(outputs([])) == []
    assert list(outputs(of(key=b"\xff", topic="t"))) == [("t", b"\xff", {"id": "x"})]


class Frozen(dict):  # type: ignore[type-arg]
    def __hash__(self) -> int:  # type: ignore[override]
        return 1
