"""Dead letters as text: the list, one in full, the counts, and what a redrive would do."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.core.visible import visible
from pipeline.stages.redrive import Outlook
from pipeline.stages.table import table

ERROR_CHARACTERS_MAX = 200
_NO_KEY = "null:"
_HEADERS = {"headers": "headers of the original", "letter_headers": "headers of the letter"}
_COUNTS = {"by_reason": "by reason", "by_source": "by source", "by_group": "by group"}


def listing(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a letter. The key is spelled as `--key` takes it."""
    if not rows:
        return "No letters."
    cells = [
        (
            f"{it['id']:>10}", it["failed_at"] or "-", it["reason"], it["group"] or "-", it["source"] or "-",
            it["key"] if it["key"] is not None else _NO_KEY, cut(it["error"] or ""),
            "(redriven)" if it["state"] == "redriven" else "",
        )
        for it in rows
    ]  # fmt: skip
    return "\n".join(table(cells))


def page(letter: Mapping[str, Any]) -> str:
    """One letter in full, a fact a line; headers and the decoded value below, one a line each."""
    facts = {
        name: value for name, value in letter.items() if name not in {*_HEADERS, "value", "value_hex", "traceback"}
    }
    facts["key"] = letter["key"] if letter["key"] is not None else _NO_KEY
    lines = [f"{name.replace('_', ' '):<26}{_plain(value)}" for name, value in facts.items() if value is not None]
    if letter.get("traceback"):
        lines += ["traceback", *(f"  {visible(line)}" for line in letter["traceback"].splitlines())]
    for name, title in _HEADERS.items():
        lines.append(f"{title}{'' if letter[name] else ': none'}")
        lines += [f"  {visible(header)}: {_plain(value)}" for header, value in letter[name]]
    if letter["value"] is not None:
        lines.append("value, decoded")
        text = json.dumps(letter["value"], ensure_ascii=False, default=str, indent=2)
        lines += [f"  {visible(line)}" for line in text.splitlines()]
    lines.append(f"value, {len(letter['value_hex'] or '') // 2} bytes, in hexadecimal")
    lines.append(f"  {letter['value_hex'] if letter['value_hex'] is not None else 'null'}")
    return "\n".join(lines)


def counts(stats: Mapping[str, Any]) -> str:
    """How many there are, and of which kinds; of each group also how many are due."""
    lines = [f"{stats['letters']} letters: {stats['due']} due, {stats['redriven']} redriven"]
    if stats["oldest"] is not None:
        lines.append(f"failed from {stats['oldest']} to {stats['newest']}")
    for name, title in _COUNTS.items():
        due = stats["due_by_group"] if name == "by_group" else None
        rows = [
            ("  " + each, f"{count:>8}", "" if due is None else f"{due.get(each, 0)} due")
            for each, count in stats[name].items()
        ]
        lines += [title, *table(rows)] if rows else []
    return "\n".join(lines)


def outlook(it: Outlook) -> str:
    """What would become of one letter, and where it would go."""
    key = it.letter.key if it.letter.key is not None else _NO_KEY
    where = f"to {it.to}: " if it.to else ""
    return f"{it.letter.id!s:>10}  {it.outcome:<14}  {visible(cut(key))}  {where}{visible(it.why)}"


def cut(text: str) -> str:
    """As much of it as a line of a list shows."""
    return text if len(text) <= ERROR_CHARACTERS_MAX else text[:ERROR_CHARACTERS_MAX] + "…"


def summed(outcomes: Iterable[tuple[str, int]]) -> str:
    """How many letters came to each outcome."""
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes) or "No letters are due."


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return visible(value) if isinstance(value, str) else visible(json.dumps(value, ensure_ascii=False, default=str))
