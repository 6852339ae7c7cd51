"""What the README's "Your own events" tells to write, as files."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FILE = re.compile(r"`([\w./-]+)`[^`]*?:\n\n```(?:json|toml|python)\n(.*?)```", re.DOTALL)


def write_into(folder: Path) -> list[Path]:
    """Put every file there; what belongs at the end of a file goes there."""
    section = (ROOT / "README.md").read_text().partition("## Your own events")[2].partition("\n## ")[0]
    written = []
    for name, text in _FILE.findall(section):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"\n{text}" if path.stat().st_size else text)
        written.append(path)
    return written
