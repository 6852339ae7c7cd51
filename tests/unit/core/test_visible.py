"""The escape of what a person sees: nobody's text moves a cursor, forges a line or hides itself."""

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import telemetry
from pipeline.core.visible import one_message, visible, visible_bytes, visible_json, visible_lines
from pipeline.stages.table import table

ATTACKS = [
    "\x1b]0;PWNED\x07",
    "\x9b31m",
    "\u202e",
    "a\nb",
    "\r",
    "\x00",
    "\ud800",
    "\u2028",
    "\u200b",
    "\U000e0041",
    "\x7f",
    "\x85",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_that_acts_on_a_terminal_is_shown_as_its_escape(attack: str) -> None:
    for shown in (visible(attack), visible_bytes(attack.encode("utf-8", "surrogatepass"))):
        assert shown.isprintable()
        assert "\\" in shown
    assert visible_lines(attack).replace("\n", "").isprintable()


def test_ordinary_text_of_every_script_is_shown_as_it_is() -> None:
    assert visible("Müller 東京 ✓ £5") == "Müller 東京 ✓ £5"
    assert visible_bytes("Müller".encode()) == "Müller"
    assert visible_bytes(b"\xff\x00A") == "\\xff\\x00A"
    assert visible_bytes(None) == "(none)"


def test_long_text_is_cut_where_it_is_said_to_be() -> None:
    assert visible("x" * 10, 5) == "xxxx…"
    assert visible("x" * 5, 5) == "xxxxx"


def test_foreign_line_in_a_message_does_not_begin_where_a_message_begins() -> None:
    assert one_message("✖ refused: a\n✔ all is well\n  - kept") == "✖ refused: a\n  ✔ all is well\n  - kept"


@given(st.text())
def test_escaped_json_means_the_same_and_holds_nothing_that_acts(text: str) -> None:
    shown = visible_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(shown) == {text: [text]}
    assert shown.isprintable()


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_door_to_the_terminal_escapes(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    telemetry.say(attack)
    telemetry.result("\n".join(table([(attack, "cell"), ("a", "b")])), {}, as_json=False)
    telemetry.result("", {attack: attack}, as_json=True)
    said = err.getvalue().splitlines() + out.getvalue().splitlines()
    assert all(line.isprintable() for line in said), said
    assert len(out.getvalue().splitlines()) == 3


@pytest.mark.parametrize("on_terminal", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_log_line_escapes_what_is_foreign_in_it(
    attack: str, on_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stderr(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    err = Stderr()
    monkeypatch.setattr(sys, "stderr", err)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        telemetry.start_logging()
        logging.getLogger("pipeline.test").warning("left %s", attack, extra={"key": attack})
    finally:
        root.handlers, root.level = handlers, level
    shown = err.getvalue()
    assert attack not in shown.removesuffix("\n") or attack == "a\nb"
    assert "\n✖" not in shown
    if not on_terminal:
        [line] = shown.splitlines()
        assert json.loads(line)["key"] == attack
