"""What a handler did, raised or returned, and what comes of it: the table of docs/howto/failures.md, for threads, the event
loop, batches and the forwarder alike.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from pipeline.core.failures import Verdict, judge
from pipeline.core.record import Keyed, Record
from pipeline.core.retry import RetryPolicy
from pipeline.errors import HandlerFailed, Reject, Retry, SinkRefused, SinkUnavailable
from pipeline.stages.crew import crew_for
from pipeline.stages.handlers import adapt
from pipeline.stages.outbox import Outbox
from tests.stages.fakes import FakeClock, FakePublisher
from tests.stages.forwarding import ForwardBench
from tests.stages.test_consume import Bench, Decoder

DEADLINE_S = 20.0
POLICY = RetryPolicy(attempts=3, backoff_s=0.1, backoff_max_s=0.1, tiers=())
WAYS = ["run", "threads", "loop", "batch", "forward"]
ONE_BY_ONE = ["run", "threads", "loop", "forward"]


@dataclass
class Told:
    """What became of the records a, x, b, of which x is the one it is about."""

    handled: list[str] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    committed: int = 0
    stopped: str = ""


class Letters:
    """An encoder that keeps what it is given."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        self.envelopes.append(dict(datum))
        return b"."


def drive(
    way: str, does: Callable[[], object], *, in_model: bool = False, bugs: Verdict = Verdict.STOP, once: bool = False
) -> Told:
    """Work the three records off, `does` being what is done for x: it raises or returns; with `once` until that counted."""
    told = Told()
    stages: list[Any] = []

    def act() -> object:
        return None if once and sum(stages[0].failures.values()) else does()

    class Event(BaseModel):
        id: str

        @field_validator("id")
        @classmethod
        def look(cls, value: str) -> str:
            if in_model and value == "x":
                act()
            return value

    def one(event: Event, record: Record) -> Any:
        if event.id == "x":
            told.attempts.append(record.attempt)
            if not in_model and (returned := act()) is not None:
                return returned
        told.handled.append(event.id)
        return None

    async def awaited(event: Event, record: Record) -> Any:
        await asyncio.sleep(0)
        return one(event, record)

    def batch(pairs: list[tuple[Event, Record]]) -> Any:
        for event, record in pairs:
            if event.id == "x":
                told.attempts.append(record.attempt)
                if not in_model and (returned := act()) is not None:
                    return returned
        told.handled.extend(event.id for event, _ in pairs)
        return None

    def transform(event: Event, record: Record) -> Any:
        returned = one(event, record)
        return Keyed("k", {"id": event.id}) if returned is None else returned

    for function in (one, awaited, transform):
        function.__annotations__["event"] = Event
    batch.__annotations__["pairs"] = list[tuple[Event, Record]]
    given = [Record("orders.v1", 0, at, key.encode(), key.encode()) for at, key in enumerate("axb")]
    deadline = time.monotonic() + DEADLINE_S
    if way == "forward":
        forward = ForwardBench(given, transform, policy=POLICY, decoder=Decoder(), bugs=bugs)
        stages.append(forward.stage)
        try:
            forward.run(lambda: forward.committed() == 3 or time.monotonic() > deadline)
        except HandlerFailed as error:
            told.stopped = str(error)
        told.handled = [value.decode() for value in forward.forwarded()]
        told.letters, told.committed = forward.broker.letters(), forward.committed()
        return told
    function = {"run": one, "threads": one, "loop": awaited, "batch": batch}[way]
    handler = adapt(function, "shop:handle")
    crew = crew_for(handler, 1 if way in {"run", "batch"} else 4, 100, judged=judge(bugs))
    letters = Letters()
    outbox = Outbox(FakePublisher(), "orders.dlq.v1", letters, FakeClock())
    bench = Bench(given, function, policy=POLICY, crew=crew, bugs=bugs, outbox=outbox)
    stages.append(bench.stage)
    try:
        bench.stage.run(lambda: bench.stage.totals.committed == 3 or time.monotonic() > deadline)
    except HandlerFailed as error:
        told.stopped = str(error)
    finally:
        crew.close()
    told.letters = letters.envelopes
    told.committed = sum(bench.source.committed_offsets.values())
    return told


def raises(make: Callable[[], BaseException]) -> Callable[[], object]:
    def act() -> object:
        raise make()

    return act


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Disguised(Exception):
    @property
    def __class__(self) -> Any:
        raise ValueError("no class")


class Huge(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000


class UnprintableReject(Reject):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("of a task group", errors)


Make = Callable[[], BaseException]
BAD_DATA: dict[str, Make] = {
    "reject": lambda: Reject("no"),
    "refused-by-the-sink": lambda: SinkRefused("no"),
    "reject-without-text": lambda: UnprintableReject("no"),
    "group-of-rejects": lambda: group(Reject("no"), Reject("neither")),
    "nested-group": lambda: group(group(Reject("no"))),
    "reject-because-of-an-outage": lambda: caused(Reject("no"), SinkUnavailable("down.")),
}
UNKNOWN: dict[str, Make] = {
    "retry": lambda: Retry("later"),
    "retry-after": lambda: Retry("later", after=0.01),
    "key-error": lambda: KeyError("nope"),
    "without-text": Unprintable,
    "without-class": Disguised,
    "huge": Huge,
    "control-characters": lambda: Exception("\ud800\0\x1b[2J\n"),
    "cancelled": asyncio.CancelledError,
    "reject-and-unknown": lambda: group(Reject("no"), KeyError("nope")),
    "reject-and-cancelled": lambda: group(asyncio.CancelledError(), Reject("no")),
    "bug-that-was-caught": lambda: caused(RuntimeError("wrapped"), TypeError("caught by them")),
}
OUTAGES: dict[str, Make] = {
    "alone": lambda: SinkUnavailable("down."),
    "beside-a-reject": lambda: group(Reject("no"), SinkUnavailable("down.")),
    "deep-beside-a-bug": lambda: group(TypeError("of None"), group(KeyError("k"), SinkUnavailable("down."))),
    "wrapped": lambda: caused(RuntimeError("could not save"), SinkUnavailable("down.")),
    "wrapped-twice": lambda: caused(KeyError("a"), caused(ValueError("b"), group(SinkUnavailable("down.")))),
}
BUGS: dict[str, Make] = {
    "type-error": lambda: TypeError("oops"),
    "attribute-error": lambda: AttributeError("'NoneType' object has no attribute 'upper'"),
    "leaves": lambda: SystemExit(1),
    "interrupts": KeyboardInterrupt,
    "generator-exit": GeneratorExit,
    "beside-a-reject": lambda: group(Reject("no"), TypeError("oops")),
    "leaves-in-a-group": lambda: group(KeyError("k"), SystemExit(2)),
}
where = pytest.mark.parametrize("in_model", [False, True], ids=["handler", "model"])


@pytest.mark.parametrize("way", WAYS)
@where
@pytest.mark.parametrize("made", BAD_DATA)
def test_bad_data_is_given_up_at_once_and_all_else_is_handled(way: str, in_model: bool, made: str) -> None:
    told = drive(way, raises(BAD_DATA[made]), in_model=in_model)
    assert (sorted(told.handled), told.committed, told.stopped) == (["a", "b"], 3, "")
    [letter] = told.letters
    assert (letter["reason"], letter["attempts"]) == ("rejected", 1)
    assert letter["error"]


@pytest.mark.parametrize("way", WAYS)
@where
@pytest.mark.parametrize("made", UNKNOWN)
def test_failure_of_unknown_kind_is_tried_again_and_counted(way: str, in_model: bool, made: str) -> None:
    told = drive(way, raises(UNKNOWN[made]), once=True, in_model=in_model)
    assert (sorted(told.handled), told.letters, told.committed, told.stopped) == (["a", "b", "x"], [], 3, "")
    assert told.attempts[-1] == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", ["without-text", "without-class", "control-characters", "cancelled"])
def test_failure_that_does_not_pass_is_a_letter_that_names_its_class(way: str, made: str) -> None:
    told = drive(way, raises(UNKNOWN[made]))
    assert (sorted(told.handled), told.committed, told.stopped) == (["a", "b"], 3, "")
    [letter] = told.letters
    assert (letter["reason"], letter["attempts"]) == ("retries_exhausted", 3)
    assert letter["error_class"].rpartition(".")[2] in {"Unprintable", "Disguised", "Exception", "CancelledError"}


@pytest.mark.parametrize("way", WAYS)
@where
@pytest.mark.parametrize("made", OUTAGES)
def test_outage_is_waited_for_and_no_attempt_is_counted(way: str, in_model: bool, made: str) -> None:
    told = drive(way, raises(OUTAGES[made]), once=True, in_model=in_model)
    assert (sorted(told.handled), told.letters, told.committed, told.stopped) == (["a", "b", "x"], [], 3, "")
    assert told.attempts[-1] == 1


@pytest.mark.parametrize("way", WAYS)
@where
@pytest.mark.parametrize("made", BUGS)
def test_bug_stops_at_the_record_and_what_came_before_is_kept(way: str, in_model: bool, made: str) -> None:
    told = drive(way, raises(BUGS[made]), in_model=in_model)
    assert told.letters == []
    assert "x" not in told.handled
    assert "That is a bug" in told.stopped
    assert "orders.v1 [0] @ " in told.stopped
    if way in {"run", "forward"} or in_model:
        assert "@ 1" in told.stopped
    if way in {"run", "forward"} and not in_model:
        assert (told.handled, told.committed) == (["a"], 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", BUGS)
def test_bug_may_be_given_up_or_tried_again_by_choice(way: str, made: str) -> None:
    told = drive(way, raises(BUGS[made]), bugs=Verdict.GIVE_UP)
    assert (sorted(told.handled), told.committed, told.stopped) == (["a", "b"], 3, "")
    assert [letter["reason"] for letter in told.letters] == ["bug"]
    told = drive(way, raises(BUGS[made]), once=True, bugs=Verdict.TRY_AGAIN)
    assert (sorted(told.handled), told.letters, told.committed) == (["a", "b", "x"], [], 3)


async def coroutine() -> None:
    pytest.fail("nobody awaits it")


def generator() -> Any:
    yield "nobody runs it, but for a transform's, which may be one"


async def async_generator() -> Any:
    yield pytest.fail("nobody runs it")


class Awaitable:
    def __await__(self) -> Any:
        yield


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bugs", [Verdict.STOP, Verdict.TRY_AGAIN, Verdict.GIVE_UP])
@pytest.mark.parametrize(
    "returned",
    [
        coroutine, generator, async_generator, Awaitable, lambda: Reject("no"), lambda: Reject, lambda: lambda: None,
        lambda: NotImplemented,
    ],
    ids=["coroutine", "generator", "async-generator", "awaitable", "exception", "class", "function", "NotImplemented"],
)  # fmt: skip
def test_what_shows_that_the_work_is_not_done_stops_at_the_record_by_no_choice(
    way: str, returned: Callable[[], object], bugs: Verdict
) -> None:
    told = drive(way, returned, bugs=bugs)
    assert told.letters == []
    assert "x" not in told.handled
    assert "returned " in told.stopped
    assert told.committed < 2


@pytest.mark.parametrize("way", ["run", "threads", "loop"])
@pytest.mark.parametrize(
    "returned", [True, False, 0, "stored", {"ok": True}, [1], b"", object()], ids=lambda it: type(it).__name__
)
def test_plain_value_that_a_handler_returns_is_passed_over(way: str, returned: object) -> None:
    told = drive(way, lambda: returned)
    assert (told.letters, told.committed, told.stopped) == ([], 3, "")
