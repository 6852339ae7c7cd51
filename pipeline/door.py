"""What all commands look like, and how they begin."""

import sys
from typing import Any

from pipeline.first_process import become_a_child_of_process_1

# Before anything that takes time is loaded: until then process 1 is deaf to signals.
become_a_child_of_process_1()

import typer  # noqa: E402

from pipeline.version import DISTRIBUTION, version  # noqa: E402

# Wider than click's own 80, where the terminal is: what a command does in one line is not cut.
_COLUMNS_MAX = 120


class _Door(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, or print the version."""
        if "--version" in sys.argv[1:]:
            sys.stdout.write(f"{DISTRIBUTION} {version()}\n")
            sys.exit(0)
        return super().__call__(*args, **kwargs)


def door(**more: Any) -> typer.Typer:
    """A command, or one with commands of its own; `more` is typer's.

    Help and refusals are plain text: rich's boxes take longer to load than all the rest of a help. `--version` answers in all
    of them, with whatever else is given.
    """
    settings = {"max_content_width": _COLUMNS_MAX}
    return _Door(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=settings, **more
    )
