"""Merge patches as they are given: as JSON, or as the name of a file, and bounded."""

from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.errors import InputRefused
from pipeline.serde.patches import PATCH_BYTES_MAX, PATCH_DEPTH_MAX, read_patch


def nested(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


def test_patch_is_json_or_a_file_that_holds_it_and_numbers_stay_exact(tmp_path: Path) -> None:
    file = tmp_path / "patch.json"
    file.write_text('{"amount": 1.10}')
    assert read_patch(str(file)) == read_patch(' {"amount": 1.10}') == {"amount": Decimal("1.10")}
    assert read_patch(nested(PATCH_DEPTH_MAX))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[1]", "no JSON object and no file"),
        ("{", "no JSON object"),
        (nested(PATCH_DEPTH_MAX + 1), "nested deeper"),
        (nested(100_000), "no JSON object|nested deeper"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "no JSON object|nested deeper"),
        ('{"a": ' + "9" * 5000 + "}", "no JSON object"),
        ('{"a": "' + "x" * PATCH_BYTES_MAX + '"}', "longer than"),
        ("no/such/file.json", "no file"),
        ("/dev/zero", "longer than"),
    ],
)
def test_what_is_no_patch_is_refused_shortly(given: str, words: str) -> None:
    with pytest.raises(InputRefused, match=words) as refused:
        read_patch(given)
    assert len(str(refused.value)) < 700


def test_file_that_holds_no_object_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "patch.json"
    file.write_bytes(b"[1]")
    with pytest.raises(InputRefused, match="is a JSON object"):
        read_patch(str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(InputRefused, match="no JSON object"):
        read_patch(str(file))
