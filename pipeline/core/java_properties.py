"""A properties file as `java.util.Properties` reads it, and a JAAS line as Kafka reads it.

Properties: the documentation of `Properties.load(Reader)`. JAAS: `org.apache.kafka.common.security.JaasConfig`, which takes
the line apart with a `java.io.StreamTokenizer`. Pure: text comes in; problems are raised as `ValueError`, without any value.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_BLANK = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_ESCAPED = "\\ :=#!"  # what Java writes with a backslash before it
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(u)|(.)|$)", re.DOTALL)
# Between key and value: one of = and :, blanks around it, or blanks alone.
_PAIR = re.compile(r"((?:\\.|[^\\ \t\f=:])*)(?:[ \t\f]*[=:][ \t\f]*|[ \t\f]+|$)(.*)", re.DOTALL)


class Line(NamedTuple):
    """A pair and the number (from 1) of the line that it begins in; `value` is None where the line has no separator.

    `literal` is the value with every backslash kept that begins no escape which Java writes; Java drops those.
    """

    number: int
    key: str
    value: str | None
    literal: str = ""


def pairs(text: str) -> Iterator[Line | str]:
    """Every pair of the file in its order, or what is wrong with its line."""
    for number, line in _logical_lines(text):
        match = _PAIR.fullmatch(line)
        if match is None:  # unreachable: the expression takes every text
            continue
        try:
            key, value, literal = _unescaped(match[1]), _unescaped(match[2]), _unescaped(match[2], kept="\\")
        except ValueError:
            yield f"line {number} has a \\u that is not followed by four hexadecimal digits"
            continue
        yield Line(number, key, value if len(match[1]) < len(line) else None, literal)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Comments and blank lines left out, lines that end with an odd number of backslashes joined with the next one."""
    begun, first, going_on = "", 0, False
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        line = raw.lstrip(_BLANK)
        if not begun and line.startswith(("#", "!")):
            continue
        if not going_on:
            first = number
        begun += line
        going_on = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        if going_on:
            begun = begun[:-1]
        elif begun:
            yield first, begun
            begun = ""
    if begun:
        yield first, begun


def _unescaped(text: str, *, kept: str = "") -> str:
    def one(match: re.Match[str]) -> str:
        if match[2]:
            raise ValueError
        if match[1]:
            return chr(int(match[1], 16))
        after = match[3] or ""
        return _ESCAPES.get(after, after if after in _ESCAPED else kept + after)

    # Two \u escapes may be the halves of one character, as Java keeps it.
    joined = _ESCAPE.sub(one, text)
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if "\\u" in text else joined


class Login(NamedTuple):
    """One login module with its options."""

    module: str
    options: dict[str, str]


_FLAGS = {"required", "requisite", "sufficient", "optional"}
_QUOTED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# A comment, a quoted text (up to its quote or the end of its line), a number, a word, or any other single character.
_TOKEN = re.compile(
    r"(?P<skip>[\0- ]+|/\*.*?(?:\*/|$(?!\n))|/[^\n\r]*)"
    r"|(?P<quote>['\"])(?P<text>(?:\\[^\n\r]|(?!(?P=quote))[^\\\n\r])*)(?:(?P=quote)|(?=[\n\r])|$)"
    r"|(?P<number>-?(?=[.\d])\d*\.?\d*)"
    r"|(?P<word>[A-Za-z_$\u00a0-\U0010ffff][A-Za-z0-9._$\u00a0-\U0010ffff-]*)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def login(jaas: str) -> Login:
    """The one login module of a `sasl.jaas.config`; `ValueError` says what is wrong with it."""
    tokens = [(match.lastgroup or "", _token(match)) for match in _TOKEN.finditer(jaas) if match["skip"] is None]
    words = iter(tokens)
    kind, module = next(words, ("", ""))
    if not module or kind == "other":
        raise ValueError("names no login module")
    _, flag = next(words, ("", ""))
    if (flag or "").lower() not in _FLAGS:
        raise ValueError("has no 'required' after its login module")
    options: dict[str, str] = {}
    for kind, token in words:
        if (kind, token) == ("other", ";"):
            break
        if token is None or kind == "other":
            raise ValueError("is not NAME=VALUE: put each value into quotes")
        equals, (value_kind, value) = next(words, ("", "")), next(words, ("", None))
        if equals != ("other", "=") or value is None or value_kind == "other":
            raise ValueError(f"gives no value that can be read for {_safe(token)}: put it into quotes")
        options[token] = value
    else:
        raise ValueError("does not end with a ';': a quote is missing, or a value needs quotes")
    if next(words, None) is not None:
        raise ValueError("has more than one login module")
    return Login(module or "", options)


def _token(match: re.Match[str]) -> str | None:
    """What it stands for; None for a number, which Kafka's reader takes for no value."""
    if match["quote"] is not None:
        return re.sub(r"\\(?:([0-3]?[0-7]{1,2})|(.))", _quoted, match["text"], flags=re.DOTALL)
    return match["word"] if match["word"] is not None else match["other"]


def _quoted(match: re.Match[str]) -> str:
    return chr(int(match[1], 8)) if match[1] else _QUOTED.get(match[2], match[2])


def _safe(name: str) -> str:
    """An option's name, if it looks like one: after a missing quote it may be a part of a password."""
    return name if name in {"username", "password", "clientId", "clientSecret", "scope"} else "an option"
