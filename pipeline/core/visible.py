r"""The one escape for what a person sees: terminals, log lines, pages.

Keys, names and messages come from anybody. What moves the cursor, colours, turns the direction of writing, ends a line or
cannot be seen is written as its escape (`\x1b`, `\n`, `\u202e`), so that nobody's text can hide or forge ours
(CWE-117, CWE-150; Unicode TR 36, "Bidirectional Text Spoofing").
"""

import re

_KEPT_IN_LINES = frozenset("\n\t")


def visible(text: str, most: int | None = None) -> str:
    """`text` on one line, every character of it printable; at most `most` characters, the last one `…` where it was cut."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def visible_bytes(value: bytes | None, most: int | None = None) -> str:
    r"""The same of bytes that are UTF-8 as a rule: what is not is written as `\xNN`. None is `(none)`."""
    return "(none)" if value is None else visible(value.decode("utf-8", "backslashreplace"), most)


def visible_lines(text: str) -> str:
    """`text` with its line ends and tabs, everything else that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _KEPT_IN_LINES else _escape(one) for one in text)


def sentence(text: str) -> str:
    """`text` with a full stop at its end, so that another sentence may follow."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", "…", ".)")) or not text else f"{text}."


def one_message(text: str) -> str:
    """`visible_lines`, and every line after the first is indented: one message never looks like two."""
    shown = visible_lines(text)
    return re.sub(r"\n(?! )", "\n  ", shown) if "\n" in shown else shown


def visible_json(text: str) -> str:
    """A JSON text that means the same, with every character printable but for the line ends and blanks between its tokens.

    Inside of strings JSON itself escapes the controls of ASCII; C1, bidirectional and other invisible ones are left to us.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else _json_escape(one) for one in text)


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode()


def _json_escape(one: str) -> str:
    # As JavaScript counts: beyond the basic plane a pair.
    units = one.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
