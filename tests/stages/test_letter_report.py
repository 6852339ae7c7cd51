"""Dead letters as people read them, and what they can type of it."""

from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Headers, Record
from pipeline.core.redrive import LetterId, Mark, selection
from pipeline.errors import RegistryUnavailable, SettingsRefused, Undecodable
from pipeline.stages.letter_report import counts, listing, page
from pipeline.stages.letters import LetterReader

EVIL = "neg\x1b]0;PWNED\x07\x9b31m\u202e\nforged"


class World:
    """Letters of two groups; `raises` by value."""

    def __init__(
        self, *keys: bytes | None, group: str = "workers", headers: Headers = (("n", b"1"), ("m", None))
    ) -> None:
        failure = Failure(FailureKind.REJECTED, "shop.Reject", "no: " + EVIL)
        self.records: list[Record] = []
        self.raises: dict[bytes, Exception] = {}
        self.envelopes: dict[bytes, dict[str, Any]] = {}
        for offset, key in enumerate(keys):
            letter = Letter(Record("orders.v1", 0, offset, key, b"v", headers), failure, Worker(group, "i"), 5000)
            self.envelopes[b"%d" % offset] = letter.envelope()
            self.records.append(Record("dlq", 0, offset, key, b"%d" % offset, letter.headers(), 1000))

    def decode(self, value: bytes | None) -> dict[str, Any]:
        if value in self.raises:
            raise self.raises[value]
        if value == b"v":
            return {"order_id": EVIL, "amount": 1}
        if value not in self.envelopes:
            raise Undecodable("no envelope")
        return self.envelopes[value]

    def reader(self, *redriven: int) -> LetterReader:
        marks = {LetterId(0, offset): Mark(1000) for offset in redriven}
        return LetterReader(lambda: self.records, self, lambda _: self, lambda: marks)

    def decode_run(self, values: Any) -> Any:
        raise NotImplementedError


KEYS = [
    b"A-1",
    b"\x00\x00\x00\x2a",
    b"\x1b[31m",
    b"a\nb",
    None,
    b"",
    b"null:",
    b"hex:41",
    "\u202e".encode(),
    b"k" * 900_000,
]


@pytest.mark.parametrize("at", range(len(KEYS)))
def test_key_as_it_is_listed_selects_its_letters_and_no_others(at: int) -> None:
    reader = World(*KEYS).reader()
    row = [letter.row() for letter in reader.letters()][at]
    line = listing([row])
    assert line.isprintable()
    typed = "null:" if row["key"] is None else row["key"]
    assert typed in line
    assert [letter.id.offset for letter in reader.letters(selection(key=typed))] == [at]


def test_list_is_a_line_a_letter_whatever_it_says() -> None:
    world = World(b"k1", EVIL.encode())
    rows = [letter.row() for letter in world.reader().letters()]
    lines = listing(rows).splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "workers" in lines[0]
    assert listing([]) == "No letters."


def test_letter_in_full_has_a_header_a_line_and_no_null() -> None:
    world = World(b"k", headers=((EVIL, EVIL.encode()), ("m", None), ("b", b"\xff")))
    text = page(world.reader().show("0:0"))
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert "  m: null" in lines
    assert r"  b: \xff" in lines
    assert "undecoded" not in text
    assert '    "amount": 1' in text
    assert max(map(len, lines)) < 300


def test_counts_tell_groups_apart() -> None:
    one, other = World(b"a", b"b", b"c"), World(b"x", group="forwarder")
    one.records.append(other.records[0]._replace(offset=3, value=b"3"))
    one.envelopes[b"3"] = other.envelopes[b"0"]
    stats = one.reader(0, 1).stats()
    assert (stats["by_group"], stats["due_by_group"]) == (
        {"workers": 3, "forwarder": 1},
        {"workers": 1, "forwarder": 1},
    )
    text = counts(stats)
    assert text.splitlines()[0] == "4 letters: 2 due, 2 redriven"
    assert "  workers           3  1 due" in text
    assert "{" not in text


@pytest.mark.parametrize(
    "error", [ValueError("Exceeds the limit"), RecursionError(), OverflowError("date"), KeyError("x")]
)
def test_letter_that_breaks_whoever_reads_it_is_an_unreadable_one_in_every_command(error: Exception) -> None:
    world = World(b"a", b"b")
    world.raises[b"0"] = error
    reader = world.reader()
    assert [letter.reason for letter in reader.letters()] == ["unreadable", "rejected"]
    assert reader.stats()["by_reason"] == {"unreadable": 1, "rejected": 1}
    assert [letter.exported()["reason"] for letter in reader.letters()] == ["unreadable", "rejected"]
    shown = reader.show("0:0")
    assert type(error).__name__ in shown["error"]
    assert page(shown)


@pytest.mark.parametrize("error", [RegistryUnavailable("away"), SettingsRefused("no password")])
def test_registry_that_does_not_answer_makes_no_letter_unreadable(error: Exception) -> None:
    world = World(b"a")
    world.raises[b"0"] = error
    with pytest.raises(type(error)):
        list(world.reader().letters())


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), RegistryUnavailable("away"), Undecodable("x")])
def test_original_that_cannot_be_decoded_is_shown_as_bytes_with_the_reason(error: Exception) -> None:
    world = World(b"a")
    world.raises[b"v"] = error
    shown = world.reader().show("0:0")
    assert (shown["value"], shown["value_hex"]) == (None, "76")
    assert "value undecoded because" in page(shown)
