"""The README's own event passes the gates that it has to pass. That it runs: tests/integration/test_own_events.py."""

import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.core.topic_file import parse
from pipeline.serde import schema_files
from tests.docs.own_events import ROOT, write_into


def test_event_of_the_readme_passes_make_check(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    written = {str(path.relative_to(tmp_path)) for path in write_into(tmp_path)}
    assert written == {
        "schemas/payments.v1-value/v1.avsc", "schemas/topics.toml", "shop/payments.py", "shop/send.py",
    }  # fmt: skip
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *command, "shop"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    assert "payments.v1-value" in schema_files.load(tmp_path / "schemas").subjects
    assert "payments.v1" in {each.name for each in parse((tmp_path / "schemas/topics.toml").read_text(), "topics.toml")}
