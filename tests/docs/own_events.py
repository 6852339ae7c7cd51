"""What the README's "Your own events" tells to write, as files."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FILE = re.compile(r"`([\w./-]+)`[^`]*?:\n\n```(?:json|toml|python)\n(.*?)```", re.DOTALL)


def write_into(folder: Path) -> list[Path]:
    """Put every file there; the topic goes to the end of the declaration, unless somebody has followed the README here."""
    section = (ROOT / "README.md").read_text().partition("## Your own events")[2].partition("\n## ")[0]
    written = []
    for name, text in _FILE.findall(section):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.suffix == ".toml" else ""
        if not before or text not in before:
            path.write_text(f"{before}\n{text}".lstrip())
        written.append(path)
    return written
