"""What a person sees of a run: exit codes, log lines and progress, on a terminal and off it."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from pipeline import telemetry


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def logs() -> Iterator[None]:
    """The root logger, put back afterwards."""
    root, librdkafka = logging.getLogger(), logging.getLogger("librdkafka")
    before = root.handlers, root.level, librdkafka.level, librdkafka.filters
    yield
    root.handlers, root.level, librdkafka.level, librdkafka.filters = before


def test_ctrl_c_ends_with_130_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, telemetry.exit_codes():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "✖ interrupted\n"


@pytest.mark.usefixtures("logs")
def test_log_line_on_a_terminal_is_printed_above_the_bar_and_not_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    telemetry.start_logging()
    with telemetry.progress("consumed", lambda: (0, "none")) as tick:
        tick()
        logging.getLogger("pipeline").warning("the broker is away")
        tick()
    before, _, _ = terminal.getvalue().partition("the broker is away")
    assert before.rpartition("\n")[2].rpartition("\x1b[2K")[2].count("consumed") == 0, "on a line of its own"


def test_line_of_an_idle_run_is_said_again_only_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    now, done = [0.0], [0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
    said: list[tuple[float, str]] = []
    with telemetry.progress("consumed", lambda: (done[0], "all of them handled")) as tick:
        for second in range(200):
            now[0], done[0] = float(second), min(second, 12)
            tick()
            said += [(now[0], record.getMessage()) for record in caplog.records]
            caplog.clear()
    assert [(at, line.partition(":")[2].split()[0]) for at, line in said] == [
        (5.0, "5"), (10.0, "10"), (15.0, "12"), (75.0, "12"), (135.0, "12"), (195.0, "12"),
    ]  # fmt: skip


def test_result_without_a_standard_output_is_a_failure_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        with pytest.raises(SystemExit) as ended, telemetry.exit_codes():
            telemetry.result("", {}, as_json=True)
    assert ended.value.code == 1
    assert "standard output is closed" in capsys.readouterr().err
