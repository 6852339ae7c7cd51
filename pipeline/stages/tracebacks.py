"""The traceback of a user's exception, as text that is short and tells nothing but code.

File, line, function and source line of each frame, and the classes of what it came from. No local values, and no text of a cause:
a database driver's names rows and parameters there. The text of the exception itself is said elsewhere, once.
"""

import traceback
from pathlib import Path

TRACEBACK_BYTES_MAX = 8_192
_FRAMES_MAX = 40
_CHAIN_MAX = 8
_MEMBERS_MAX = 3
# Where the worker calls the handler: frames above are ours, and the same each time.
_OURS = tuple(
    str(Path(__file__).with_name(name)) for name in ("calls.py", "crew.py", "work.py", "consume.py", "forward.py")
)
_CUT = "[earlier frames are left out]\n"


def traceback_of(error: BaseException) -> str | None:
    """The traceback, the last frame at the end, at most `TRACEBACK_BYTES_MAX` bytes of UTF-8; None where it was never raised.

    Where an exception has a cause or a context, that comes first, as Python prints it.
    """
    try:
        text = "".join(_chained(error, _CHAIN_MAX, set()))
    except BaseException:  # noqa: BLE001  # whatever a class of the user's made of its names, its cause or its members
        return None
    if not text:
        return None
    cut = text.encode("utf-8", "backslashreplace")
    if len(cut) > TRACEBACK_BYTES_MAX:
        # The last frames are those that tell; a line that was cut goes as a whole.
        cut = cut[len(_CUT) - TRACEBACK_BYTES_MAX :].partition(b"\n")[2]
        return _CUT + cut.decode("utf-8", "replace").rstrip("\n")
    return cut.decode().rstrip("\n")


def _chained(error: BaseException, depth: int, seen: set[int]) -> list[str]:
    if id(error) in seen or depth == 0:
        return []
    seen.add(id(error))
    lines: list[str] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and (before := _chained(cause, depth - 1, seen)):
        words = "which was the cause of" if error.__cause__ is not None else "while that was handled"
        lines += [*before, f"{words}:\n"]
    frames = _frames(error)
    if frames or lines:
        lines += [*frames, f"{_name(error)}\n"]
    if issubclass(type(error), BaseExceptionGroup):  # not isinstance: that asks the object for its class
        for member in error.exceptions[:_MEMBERS_MAX]:  # type: ignore[attr-defined]
            lines += [f"in {_name(error)}:\n", *_chained(member, depth - 1, seen)]
    return lines


def _frames(error: BaseException) -> list[str]:
    found = list(traceback.extract_tb(error.__traceback__, limit=-_FRAMES_MAX))
    theirs = [frame for frame in found if frame.filename not in _OURS]
    return traceback.StackSummary.from_list(theirs).format()


def _name(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
