"""The W3C trace context: what travels on the record, and what is left out because it is malformed."""

import pytest

from pipeline.api.trace_context import trace_headers, traceparent, tracestate

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_context_travels_as_it_was() -> None:
    headers = trace_headers([PARENT], ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"])
    assert dict(headers) == {"traceparent": PARENT.encode(), "tracestate": b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}


@pytest.mark.parametrize(
    "parent",
    [
        "", "00", PARENT + "-x", PARENT + "-" + "x" * 100_000, PARENT + " ", PARENT.upper(), f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01x", f"00_{TRACE}_{SPAN}_01", f"00-{TRACE}-{SPAN}-0g", "\n" + PARENT,
    ],
)  # fmt: skip
def test_malformed_parent_is_left_out_with_its_state(parent: str) -> None:
    assert traceparent(parent) is None
    assert trace_headers([parent], ["a=b"]) == ()


def test_two_parents_are_none() -> None:
    assert trace_headers([PARENT, PARENT], []) == ()
    assert trace_headers([], ["a=b"]) == ()


def test_later_version_is_written_as_the_one_that_is_known() -> None:
    assert traceparent(f"cc-{TRACE}-{SPAN}-ff-{'x' * 1000}") == PARENT
    assert traceparent(f"01-{TRACE}-{SPAN}-02") == f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize(
    "lines",
    [
        ["a=" + "x" * 511], ["a=b,a=c"], ["a=b", "a=c"], ["A=b"], ["a"], ["=b"], ["a="], ["a=b=c"], ["a=ü"], ["a=\x1b"],
        ["a =b"], ["@b=c"], ["a@=c"], ["a@b@c=d"], [",".join(f"k{n}=1" for n in range(33))], ["a=b;c=\x7f"],
    ],
)  # fmt: skip
def test_malformed_state_is_left_out_and_the_parent_stays(lines: list[str]) -> None:
    assert tracestate(lines) is None
    assert trace_headers([PARENT], lines) == (("traceparent", PARENT.encode()),)


def test_state_of_several_lines_is_one_list() -> None:
    assert tracestate(["a=1, b=2", "", " ,c@d=x y"]) == "a=1,b=2,c@d=x y"
    assert tracestate([]) is None
