"""Log lines of a long-running command: one JSON object each, whatever says them, or readable on a terminal."""

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import logs, telemetry
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record
from pipeline.errors import BrokerUnavailable, SettingsRefused
from pipeline.stages.failure_log import FailureLog
from pipeline.stages.report import consume_report

NAMED = ("pipeline", "librdkafka", *logs._TALKATIVE, "shop")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The logging of this process, put back afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level, {name: logging.getLogger(name).level for name in NAMED}
    hooks = sys.excepthook, threading.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers, root.level, levels = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("librdkafka").filters = []
    sys.excepthook, threading.excepthook = hooks
    logs._State.json_lines = logs._State.json_results = False
    logs._State.facts = {}


def service(**changes: Any) -> None:
    logs.start(**{"form": "json", "service": True, "topic": "orders.v1", "group": "g", "instance": None, **changes})


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What stderr got: every line has to be an object."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_of_a_service_is_an_object_with_who_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    service()
    logging.getLogger("pipeline.kafka.consumer").info("partitions assigned", extra={"partitions": {"orders.v1": [0]}})
    telemetry.say("shutting down\nnow")
    with pytest.raises(SystemExit), telemetry.exit_codes():
        raise SettingsRefused('two\n  - lines and "quotes"')
    telemetry.result("3 consumed", {"consumed": 3}, as_json=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assigned, shutting, fatal, summary, warned = lines(capsys)
    assert (assigned["partitions"], assigned["logger"]) == ({"orders.v1": [0]}, "pipeline.kafka.consumer")
    assert shutting["message"] == "shutting down\nnow"
    assert (fatal["level"], fatal["exit_code"], fatal["error_class"]) == ("error", 2, "SettingsRefused")
    assert (summary["consumed"], summary["message"]) == (3, "ended: 3 consumed")
    assert warned["level"] == "warning"
    for each in (assigned, shutting, fatal, summary, warned):
        assert {"timestamp", "level", "message", "logger", "pid"} <= each.keys()
        assert (each["topic"], each["group"], "instance" in each) == ("orders.v1", "g", False)


def test_exception_that_nobody_caught_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    service()
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    sys.excepthook(ZeroDivisionError, caught.value, caught.tb)

    def fails() -> None:
        raise KeyError("in a thread")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    first, second = lines(capsys)
    assert (first["level"], "1 / 0" in first["exception"]) == ("critical", True)
    assert "in a thread" in second["exception"]


def test_result_is_json_where_the_format_was_asked_for_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service()
    telemetry.result("3 consumed", {"consumed": 3}, as_json=False)
    assert json.loads(capsys.readouterr().out) == {"consumed": 3}
    service(form="auto")
    telemetry.result("3 consumed", {"consumed": 3}, as_json=False)
    assert capsys.readouterr().out == "3 consumed\n"


def test_verbose_line_of_a_record_has_its_coordinates_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    service()
    seen = consume_report(telemetry.say, verbose=True, as_fields=logs.json_lines())
    assert seen is not None
    seen(Record("orders.v1", 3, 42, b"A\x1b", b""), None)
    [line] = lines(capsys)
    assert (line["topic"], line["partition"], line["offset"], line["key"]) == ("orders.v1", 3, 42, "A\\x1b")
    assert line["message"].startswith("✔ orders.v1 [3] @ 42")


def test_record_of_a_retry_topic_names_its_own_topic_and_not_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    service()
    failure = Failure(FailureKind.REJECTED, "Reject", "no", traceback='  File "a.py", line 1, in handle')
    FailureLog(lambda: 0.0).dead(Record("another.v1", 0, 1, None, b""), failure, 1)
    [line] = lines(capsys)
    assert (line["topic"], line["key"], line["tier"], line["level"]) == ("another.v1", None, 1, "error")
    assert line["exception"].endswith("in handle")


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_counts_for_ours_and_for_a_handlers_own_lines(
    level: str, written: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pipeline.stages.consume", "shop"):
        service(level=level)
        log = logging.getLogger(name)
        for say in (log.debug, log.info, log.warning, log.error):
            say("a line", extra={"order": "o-1"})
        found = lines(capsys)
        assert [each["order"] for each in found] == ["o-1"] * written


def test_library_that_tells_every_request_is_silent_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    service()
    for name in ("httpx", "httpx2"):  # the registry's client is one of them
        logging.getLogger(name).info("HTTP Request: GET ...")
    assert lines(capsys) == []


def test_connection_that_failed_is_a_warning_said_once_in_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    service()
    client = logging.getLogger("librdkafka")
    for at in range(200):
        now[0] = at / 10
        client.error("FAIL [orders-pipeline#producer-5] [thrd:b:9092/1]: refused (after %dms in state CONNECT)", at)
        client.error("FAIL [orders-pipeline#producer-5] [thrd:b:9092/1]: %d requests timed out", at)
    client.error("SSL [orders-pipeline#producer-5] broken")
    found = lines(capsys)
    assert [each["level"] for each in found] == ["warning"] * 4 + ["error"]


def test_line_for_a_person_has_no_fields_but_those_of_their_own_logger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    service(form="console")
    logging.getLogger("pipeline.x").warning("broker away", extra={"retry_in_s": 5})
    logging.getLogger("shop").warning("charged", extra={"order": "o-1"})
    assert "broker away" in terminal.getvalue()
    assert "retry_in_s" not in terminal.getvalue()
    assert "o-1" in terminal.getvalue()
    telemetry.say("✖ plain")
    assert terminal.getvalue().endswith("✖ plain\n")


def test_refusal_of_the_settings_is_in_the_form_that_the_environment_asks_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_LOG__FORMAT", "JSON")
    telemetry.start_logging(service=True)
    with pytest.raises(SystemExit), telemetry.exit_codes():
        raise BrokerUnavailable("away")
    [line] = lines(capsys)
    assert line["message"] == "✖ away"
    monkeypatch.setenv("PIPELINE_LOG__FORMAT", "console")
    telemetry.start_logging(service=True)
    telemetry.say("plain")
    assert capsys.readouterr().err == "plain\n"


def test_one_shot_command_speaks_to_people_whatever_its_log_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    telemetry.say("12 letters exported")
    assert capsys.readouterr().err == "12 letters exported\n"
