"""`python -m pipeline.deadletters list | show | stats | export | redrive | purge`: what was given up, why, and back again."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import purge as purging
from pipeline import redrive as redriving
from pipeline.door import door
from pipeline.redrive import (
    ErrorClass,
    ErrorContains,
    Group,
    Json,
    Key,
    Reason,
    SchemaId,
    Servers,
    Since,
    Source,
    Topic,
    Until,
)

if TYPE_CHECKING:
    from pipeline.stages.letters import LetterReader

app = door(no_args_is_help=True, help=__doc__)
app.command()(redriving.redrive)
app.command()(purging.purge)


@app.command("list")
def list_(
    topic: Topic = None,
    reason: Reason = None,
    key: Key = None,
    group: Group = None,
    error_class: ErrorClass = None,
    error_contains: ErrorContains = None,
    *,
    limit: Annotated[int, typer.Option(min=0, help="At most this many; 0 is all.")] = 50,
    all_letters: Annotated[bool, typer.Option("--all-letters", help="Those that were redriven, too.")] = False,
    bootstrap_servers: Servers = None,
    as_json: Json = False,
) -> None:
    """One line a letter that is due. Its id, when, reason, group, where it came from, key, error."""
    from pipeline import telemetry  # noqa: PLC0415  # --help must not load the client
    from pipeline.core.redrive import selection  # noqa: PLC0415
    from pipeline.stages.letter_report import listing  # noqa: PLC0415

    with telemetry.exit_codes():
        chosen = selection(reason=reason, key=key, group=group, error_class=error_class, error_contains=error_contains)
        with _letters(topic, bootstrap_servers) as reader:
            found = reader.letters(chosen)
            rows = [letter.row() for letter in found if all_letters or not letter.redriven]
        shown = rows[:limit] if limit else rows
        telemetry.result(listing(shown), shown, as_json=as_json)
        if len(shown) < len(rows):
            telemetry.say(f"{len(shown)} of {len(rows)} letters; --limit 0 shows all")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="partition:offset, as `list` prints it.")],
    topic: Topic = None,
    bootstrap_servers: Servers = None,
    as_json: Json = False,
) -> None:
    """One letter in full. Its history, its headers, its bytes, and the original where it can be decoded."""
    from pipeline import telemetry  # noqa: PLC0415
    from pipeline.stages.letter_report import page  # noqa: PLC0415

    with telemetry.exit_codes():
        with _letters(topic, bootstrap_servers) as reader:
            found = reader.show(letter)
        telemetry.result(page(found), found, as_json=as_json)


@app.command()
def stats(topic: Topic = None, bootstrap_servers: Servers = None, as_json: Json = False) -> None:
    """How many letters there are. Due and redriven, by reason, source topic and consumer group."""
    from pipeline import telemetry  # noqa: PLC0415
    from pipeline.stages.letter_report import counts  # noqa: PLC0415

    with telemetry.exit_codes():
        with _letters(topic, bootstrap_servers) as reader:
            counted = reader.stats()
        telemetry.result(counts(counted), counted, as_json=as_json)


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="Where the NDJSON goes; - is stdout.")],
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    schema_id: SchemaId = None,
    source: Source = None,
    group: Group = None,
    error_class: ErrorClass = None,
    error_contains: ErrorContains = None,
    *,
    all_letters: Annotated[bool, typer.Option("--all-letters", help="Those that were redriven, too.")] = False,
    topic: Topic = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Every letter that is due, in full. One JSON object a line, bytes as base64."""
    from pipeline import telemetry  # noqa: PLC0415
    from pipeline.core.redrive import selection  # noqa: PLC0415
    from pipeline.stages.letters import export_to  # noqa: PLC0415

    with telemetry.exit_codes():
        chosen = selection((), reason, key, since, until, schema_id, source, group, error_class, error_contains)
        with _letters(topic, bootstrap_servers) as reader:
            found = reader.letters(chosen)
            count = export_to(file, (letter for letter in found if all_letters or not letter.redriven))
        telemetry.say(f"{count} letters exported")


def _letters(topic: str | None, bootstrap_servers: str | None) -> "AbstractContextManager[LetterReader]":
    from pipeline import settings, telemetry, wiring  # noqa: PLC0415

    telemetry.start_logging()
    flags = {"kafka.dead_letter_topic": topic, "kafka.bootstrap_servers": bootstrap_servers}
    return wiring.letters(settings.load(flags, settings.WITH_SCHEMAS))


if __name__ == "__main__":
    app()
