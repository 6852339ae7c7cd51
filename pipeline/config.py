"""`python -m pipeline.config show`: the settings as they are merged, and where each one came from."""

import json
from typing import Annotated

import typer

from pipeline.door import door

app = door(no_args_is_help=True)


@app.callback()
def config() -> None:
    """The settings of the pipeline."""


@app.command()
def show(json_line: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False) -> None:
    """Print every setting, its value (secrets masked) and where it came from."""
    # Here and not above, so that --help answers without them.
    from pipeline import settings  # noqa: PLC0415
    from pipeline.kafka.config import check_names  # noqa: PLC0415
    from pipeline.stages.table import table  # noqa: PLC0415
    from pipeline.telemetry import exit_codes, result, say  # noqa: PLC0415

    with exit_codes():
        merged, rows = settings.show()
        check_names(merged.kafka)
        for refusal in settings.refusals():
            say(f"! refused by {refusal}")
        values = {row.name: {"value": row.value, "from": row.origin} for row in rows}
        lines = table([(row.name, _text(row.value), row.origin) for row in rows])
        result("\n".join(lines), values, as_json=json_line)


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    app()
