"""A merge patch as an operator gives it: read, and refused where it is more than a patch of a record can be."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.errors import InputRefused

PATCH_BYTES_MAX = 1_048_576
PATCH_DEPTH_MAX = 100
_SHOWN_MAX = 200


def read_patch(given: str) -> dict[str, Any]:
    """A JSON object, given as such or as the name of a file; numbers stay exact. `InputRefused` for anything else.

    So is one longer than `PATCH_BYTES_MAX`, or nested deeper than `PATCH_DEPTH_MAX`.
    """
    shown = given if len(given) <= _SHOWN_MAX else given[:_SHOWN_MAX] + "…"
    try:
        text = given if given.lstrip().startswith("{") else _read(Path(given))
        if len(text) > PATCH_BYTES_MAX:
            raise InputRefused(f"--patch {shown}: longer than {PATCH_BYTES_MAX} bytes. A patch names a few fields")
        patch = json.loads(text, parse_float=Decimal)
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"--patch {shown}: no JSON object and no file that holds one: {error}") from error
    if not isinstance(patch, dict):
        raise InputRefused(f"--patch {shown}: a merge patch for a record is a JSON object")
    if not _within(patch, PATCH_DEPTH_MAX):
        raise InputRefused(f"--patch {shown}: nested deeper than {PATCH_DEPTH_MAX} levels, as no schema is")
    return patch


def _read(path: Path) -> str:
    """No more of it than is looked at: the name may be a device's, which never ends."""
    with path.open("rb") as file:
        return file.read(PATCH_BYTES_MAX + 1).decode()


def _within(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_within(each, levels - 1) for each in parts)
