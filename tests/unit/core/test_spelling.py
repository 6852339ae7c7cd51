"""Keys spelled for people: what is printed can be typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.spelling import clipped, key_of, spelled
from pipeline.errors import Refused


@pytest.mark.parametrize(
    ("key", "spelling"),
    [
        (b"A-1", "A-1"),
        ("Bär 1".encode(), "Bär 1"),
        (None, "null:"),
        (b"null:", "hex:6e756c6c3a"),
        (b"hex:41", "hex:6865783a3431"),
        (b"", ""),
        (b"\x00\x00\x00\x2a", "hex:0000002a"),
        (b"\xff", "hex:ff"),
        (b"a\nb", "hex:610a62"),
        (b"\x1b[31m", "hex:1b5b33316d"),
        ("\u202eabc".encode(), "hex:e280ae616263"),
        ("\x9b31m".encode(), "hex:c29b33316d"),
        (b" a", "hex:2061"),
    ],
)
def test_key_is_text_where_it_can_be_read_and_hexadecimal_where_not(key: bytes | None, spelling: str) -> None:
    assert spelled(key) == spelling


@given(st.none() | st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "replace")))
def test_what_is_printed_can_be_typed(key: bytes | None) -> None:
    assert clipped(spelled(key)).isprintable()
    assert key_of(clipped(spelled(key))) == clipped(spelled(key))


@given(st.binary(), st.binary())
def test_no_two_keys_have_one_spelling(one: bytes, other: bytes) -> None:
    assert (spelled(one) == spelled(other)) == (one == other)


def test_key_that_a_shell_passes_as_it_is_means_the_same() -> None:
    assert key_of("a\nb") == spelled(b"a\nb")
    assert key_of("HEX:41") == "HEX:41"
    assert key_of("hex:41") == "A"


def test_long_keys_are_cut_and_still_told_apart() -> None:
    one, other = (clipped("k" * 900_000 + end) for end in "ab")
    assert one != other
    assert len(one) < 400


def test_hexadecimal_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="in hexadecimal"):
        key_of("hex:4")
