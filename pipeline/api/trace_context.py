"""The W3C trace context of a request (Trace Context, level 1), as far as it is well formed: it travels on the record.

What is malformed is left out, as the recommendation says: a trace that breaks off is better than one that lies.
"""

import re
from collections.abc import Sequence

from starlette.requests import Request

from pipeline.core.record import Headers

STATE_CHARACTERS_MAX = 512
_STATES_MAX = 32
_PARENT_CHARACTERS = 55
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_STATE = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]",
    re.ASCII,
)


def trace_of(request: Request) -> Headers:
    """What travels on the record of an order that this request brings."""
    return trace_headers(request.headers.getlist("traceparent"), request.headers.getlist("tracestate"))


def trace_headers(parents: Sequence[str], states: Sequence[str]) -> Headers:
    """The headers of the record, given all `traceparent` and `tracestate` headers of the request: none, one or both."""
    parent = traceparent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        return ()
    state = tracestate(states)
    return (("traceparent", parent.encode()), *((("tracestate", state.encode()),) if state else ()))


def traceparent(text: str) -> str | None:
    """As it was, or None. One of a later version is written as this version has it: only that much is understood of it."""
    found = _PARENT.fullmatch(text[:_PARENT_CHARACTERS])
    if found is None:
        return None
    version, trace, parent, flags = found.groups()
    rest = text[_PARENT_CHARACTERS:]
    if version == "ff" or not trace.strip("0") or not parent.strip("0"):
        return None
    if version == "00":
        return None if rest else text
    return f"00-{trace}-{parent}-{int(flags, 16) & 1:02x}" if not rest or rest.startswith("-") else None


def tracestate(lines: Sequence[str]) -> str | None:
    """The list of all lines, or None where one member is malformed, one key comes twice, or it is too long."""
    joined = ",".join(lines)
    if len(joined) > STATE_CHARACTERS_MAX:
        return None
    members = [member for each in joined.split(",") if (member := each.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _STATES_MAX or len(keys) < len(members) or not all(map(_STATE.fullmatch, members)):
        return None
    return ",".join(members) or None
