"""What the log and the letters say of a failure: where, which record, and the line of code that raised it."""

import logging
from typing import Any

import pytest

from pipeline.core.dead_letter import TRACEBACK
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import HandlerFailed, Reject, SinkUnavailable
from pipeline.stages.back_off import BackOff
from pipeline.stages.failure_log import FailureLog
from pipeline.stages.tracebacks import TRACEBACK_BYTES_MAX, traceback_of
from tests.stages.fakes import FakeClock
from tests.stages.test_retries import FIRST, TOPIC, Bench, die, mortal

DLQ = TopicPartition("orders.dlq.v1", 0)
ROW = "4111 1111, hunter2"
SECRET = ("password", "hunter2")
NO_TIERS = RetryPolicy(attempts=3, backoff_s=0.2, tiers=())


def two_deep(order: dict[str, str]) -> str:
    return order["nope"]


def failing(bench: Bench, *ids: str) -> None:
    """The handler raises a `KeyError`, two calls deep, at these."""

    def on_touch(record: Record) -> None:
        if (record.value or b"").decode() in ids:
            two_deep(dict([SECRET]))

    bench.on_touch = on_touch


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[Any]:
    return [each for each in caplog.records if each.levelno == level and hasattr(each, "failure")]


def header(bench: Bench, name: str) -> str | None:
    [record] = bench.broker.logs[DLQ]
    found = dict(record.headers).get(name)
    return None if found is None else found.decode()


def test_every_try_that_failed_is_a_warning_and_the_letter_an_error_with_all_that_names_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench("a1", "b1", policy=NO_TIERS)
    failing(bench, "b1")
    bench.turns()
    tries = lines(caplog, logging.WARNING)
    assert [each.attempt for each in tries] == [1, 2, 3]
    for each in tries:
        assert (each.topic, each.partition, each.offset, each.key) == (TOPIC, 0, 1, "b")
        assert (each.failure, each.error_class, each.error, each.tier) == ("transient", "KeyError", "'nope'", 0)
        assert "two_deep" in each.exception
        assert 'return order["nope"]' in each.exception
    [letter] = lines(caplog, logging.ERROR)
    assert (letter.offset, letter.failure, letter.attempt) == (1, "retries_exhausted", 3)
    assert "two_deep" in letter.exception


def test_record_that_goes_to_a_retry_topic_is_said_with_its_topic_and_tier(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a1")
    bench.fails = {"a1": [OSError("no"), OSError("no"), OSError("no")]}
    bench.turns()
    tries = lines(caplog, logging.WARNING)
    assert [each.tier for each in tries] == [0, 0, 1]
    assert FIRST in tries[1].getMessage()
    assert (tries[2].topic, tries[2].attempt) == (TOPIC, 3), "where it came from, not where it waits"


def test_undecodable_and_crash_loop_are_errors_too(caplog: pytest.LogCaptureFixture) -> None:
    bench = mortal("a1", "x1")
    for _ in range(3):
        die(bench, lambda record: record.value == b"x1")
    bench.write("!")
    bench.start()
    bench.turns()
    assert {each.failure for each in lines(caplog, logging.ERROR)} >= {"crash_loop"}


def test_letter_carries_the_traceback_and_a_forged_one_is_replaced() -> None:
    bench = Bench(policy=NO_TIERS)
    bench.write("b1", headers=((TRACEBACK, b"forged"),))
    failing(bench, "b1")
    bench.turns()
    text = header(bench, TRACEBACK) or ""
    assert text.splitlines()[-1] == "KeyError"
    assert "two_deep" in text
    assert "forged" not in text
    assert "hunter2" not in text, "no value of any variable"
    assert "crew.py" not in text, "frames of ours say nothing"


def test_letter_without_a_handlers_exception_has_no_traceback() -> None:
    bench = Bench("b1", policy=NO_TIERS)
    bench.fails = {}
    bench.decoder.decode = lambda value: (_ for _ in ()).throw(Reject("never"))
    bench.turns()
    assert header(bench, "error") == "never"
    assert header(bench, TRACEBACK) is None


def test_bug_is_one_error_line_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a1", "b1")
    bench.on_touch = lambda record: record.headers.upper()  # type: ignore[attr-defined]
    with pytest.raises(HandlerFailed):
        bench.stage.run(lambda: False)
    [line] = lines(caplog, logging.ERROR)
    assert (line.failure, line.error_class) == ("bug", "AttributeError")
    assert "record.headers.upper()" in line.exception


def test_ten_thousand_failures_write_few_lines_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*(f"{key}{n}" for n in range(1_000) for key in "abcdefghij"), policy=NO_TIERS)
    bench.clock = clock = FakeClock()
    clock.__class__ = type("Still", (FakeClock,), {"__call__": lambda self: self.now})
    log = FailureLog(clock)
    for at in range(10_000):
        log.dead(Record(TOPIC, 0, at, b"k", b"v"), Failure(FailureKind.REJECTED, "Reject", "no"), 0)
    assert len(caplog.records) == 10
    clock.now = 0.0
    log.serve()
    clock.now = 31.0
    log.serve()
    assert caplog.records[-1].left_out == {"ERROR rejected Reject": 9_990}  # type: ignore[attr-defined]
    log.summarize()
    assert len(caplog.records) == 11, "nothing new, nothing said"


def test_end_of_a_run_counts_what_was_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*(f"{key}{n}" for n in range(10) for key in "abcdefghij"), policy=NO_TIERS)
    bench.fails = {f"{key}{n}": [Reject("no")] for n in range(10) for key in "abcdefghij"}
    bench.turns(20)
    bench.stop()
    written = len(lines(caplog, logging.ERROR))
    assert written < 100
    [rest] = [each for each in caplog.records if hasattr(each, "left_out")]
    assert written + sum(rest.left_out.values()) == 100  # type: ignore[attr-defined]


def test_key_and_error_are_escaped_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    failure = Failure(FailureKind.REJECTED, "Reject", "one\nFORGED line\x1b[2J" + "x" * 5_000)
    FailureLog(FakeClock()).dead(Record(TOPIC, 0, 1, b"\x1b]0;" + b"k" * 5_000, b""), failure, 0)
    [line] = lines(caplog, logging.ERROR)
    assert line.key.startswith("\\x1b]0;k")
    assert len(line.key) <= 110
    assert "\n" not in line.getMessage()
    assert "\x1b" not in line.getMessage() + line.error
    assert len(line.getMessage()) < 1_000


def test_traceback_of_a_deep_recursion_keeps_its_last_frames_within_the_bound() -> None:
    def deep(left: int) -> None:
        if left == 0:
            raise ValueError("at the bottom")
        (deep if left % 2 else deeper)(left - 1)

    def deeper(left: int) -> None:
        "ü" * 10  # noqa: B018
        (deep if left % 2 else deeper)(left - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        deep(900)
    text = traceback_of(caught.value) or ""
    assert len(text.encode()) <= TRACEBACK_BYTES_MAX
    assert 'raise ValueError("at the bottom")' in text
    assert text.splitlines()[-1] == "ValueError"


def test_long_chain_is_cut_at_its_beginning() -> None:
    error: BaseException | None = None
    for n in range(30):
        try:
            exec(compile("\n" * n + f"raise OSError  # {'x' * 2_000}", "<user>", "exec"))
        except OSError as caught:
            caught.__cause__ = error
            error = caught
    assert error is not None
    text = traceback_of(error) or ""
    assert len(text.encode()) <= TRACEBACK_BYTES_MAX


def test_cause_is_named_by_class_and_place_and_its_text_is_left_out() -> None:
    """A driver's error tells its statement and rows; who wraps it decides what is said of it."""

    def execute(row: str) -> None:
        raise RuntimeError(f"[SQL: INSERT] [parameters: ({row})]")

    def store(row: str) -> None:
        try:
            execute(row)
        except RuntimeError as driver:
            raise SinkUnavailable("the database refused a row") from driver

    with pytest.raises(SinkUnavailable) as caught:
        store(ROW)
    text = traceback_of(caught.value) or ""
    assert "RuntimeError" in text
    assert "which was the cause of" in text
    assert text.splitlines()[-1] == "pipeline.errors.SinkUnavailable"
    assert "hunter2" not in text


def test_group_names_what_its_members_are() -> None:
    def task() -> None:
        two_deep({})

    def group() -> None:
        try:
            task()
        except KeyError as error:
            raise ExceptionGroup("several", [error, ValueError("never raised")]) from None

    with pytest.raises(ExceptionGroup) as caught:
        group()
    text = traceback_of(caught.value) or ""
    assert "in ExceptionGroup:" in text
    assert 'return order["nope"]' in text


def test_exception_that_was_never_raised_has_no_traceback() -> None:
    assert traceback_of(Reject("returned by a batch handler")) is None


def test_texts_that_are_joined_are_two_sentences(caplog: pytest.LogCaptureFixture) -> None:
    BackOff(FakeClock()).delay(SinkUnavailable("the bank does not answer"))
    BackOff(FakeClock()).delay(SinkUnavailable("the bank does not answer."))
    said = {each.getMessage() for each in caplog.records}
    assert said == {"the bank does not answer. Trying again in 0.2 s; nothing is lost or skipped."}
