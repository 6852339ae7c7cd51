"""`python -m pipeline.deadletters redrive`: letters back to the group that gave them up, each exactly once."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.core.redrive import Selection
    from pipeline.stages.redrive import Redrive

Servers = Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")]
Topic = Annotated[str | None, typer.Option("--topic", "-t", help="The dead-letter topic.")]
Json = Annotated[bool, typer.Option("--json", help="Exactly one line of JSON on stdout.")]
Ids = Annotated[list[str] | None, typer.Argument(help="partition:offset of single letters, as `list` prints them.")]
Reason = Annotated[str | None, typer.Option(help="Only letters of this failure class.")]
Key = Annotated[str | None, typer.Option(help="Only letters of this key, as `list` prints it: text, hex:... or null:.")]
Since = Annotated[str | None, typer.Option(help="Only letters that failed at this time or later: ISO 8601, zone.")]
Until = Annotated[str | None, typer.Option(help="Only letters that failed before this time.")]
SchemaId = Annotated[int | None, typer.Option("--schema-id", help="Only letters whose bytes name this schema.")]
Group = Annotated[str | None, typer.Option(help="Only letters of this consumer group.")]
ErrorClass = Annotated[str | None, typer.Option("--error-class", help="Only letters of this exception class.")]
ErrorContains = Annotated[str | None, typer.Option("--error-contains", help="Only letters whose error has this text.")]
Source = Annotated[str | None, typer.Option(help="Only letters from topic[:partition[:from-to]], offsets included.")]


def redrive(
    ids: Ids = None,
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
    everything: Annotated[bool, typer.Option("--all", help="Every letter that is due.")] = False,
    to_source: Annotated[
        bool, typer.Option("--to-source", help="To the source topic, for all groups, not only the one that failed.")
    ] = False,
    allow_topic: Annotated[
        str | None, typer.Option("--allow-topic", help="With the same --source: a topic that is none of the settings'.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would decode now; write nothing.")] = False,
    patch: Annotated[str | None, typer.Option(help="JSON merge patch for the originals: a file, or the JSON.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most this many letters a second.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most this many letters; 0 is all.")] = 0,
    max_redrives: Annotated[int, typer.Option(min=0, help="After as many redrives a letter is parked.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Letters in one transaction.")] = 100,
    topic: Topic = None,
    bootstrap_servers: Servers = None,
    as_json: Json = False,
) -> None:
    """Give letters back to the group that gave them up. Those that are due, each once, however often this is killed.

    Exit codes: 0 done · 1 failed while running: run it again · 2 refused before anything was sent · 3 done, but some
    letters had to be left · 4 another redrive of the topic took over.
    """
    from pipeline import telemetry  # noqa: PLC0415  # --help must not load the client
    from pipeline.core.redrive import Selection, selection  # noqa: PLC0415
    from pipeline.errors import Refused  # noqa: PLC0415

    with telemetry.exit_codes():
        chosen = selection(ids or (), reason, key, since, until, schema_id, source, group, error_class, error_contains)
        if not everything and chosen == Selection():
            raise Refused(
                "Which letters? Give letter ids, --reason, --key, --since, --until, --schema-id, --source, --group, "
                "--error-class, --error-contains or --all."
            )
        if everything and allow_topic is not None:
            raise Refused(f"--allow-topic {allow_topic} does not go with --all: name its letters by --source.")
        options: dict[str, Any] = {
            "selection": chosen, "to_source": to_source, "allow_topic": allow_topic, "patch": patch,
            "max_redrives": max_redrives, "batch": batch, "rate": rate,
        }  # fmt: skip
        with _stage(topic, bootstrap_servers, options) as stage:
            if dry_run:
                _preview(stage, chosen, limit, as_json=as_json)
                return
            _run(stage, chosen, limit, as_json=as_json)


def _stage(topic: str | None, servers: str | None, options: dict[str, Any]) -> "AbstractContextManager[Redrive]":
    from pipeline import settings, telemetry, wiring  # noqa: PLC0415

    telemetry.start_logging()
    configured = settings.load(
        {"kafka.dead_letter_topic": topic, "kafka.bootstrap_servers": servers}, settings.WITH_SCHEMAS
    )
    return wiring.redrive(configured, **options)


def _preview(stage: "Redrive", chosen: "Selection", limit: int, *, as_json: bool) -> None:
    from collections import Counter  # noqa: PLC0415

    from pipeline import telemetry  # noqa: PLC0415
    from pipeline.stages.letter_report import outlook, summed  # noqa: PLC0415

    counts: Counter[str] = Counter()
    lines = []
    for it in stage.preview(stage.plan(chosen, limit)):
        counts[it.outcome] += 1
        lines.append(outlook(it))
    lines.append(summed(counts.most_common()))
    telemetry.result(
        "\n".join(lines), {"selected": counts.total(), "outcomes": dict(counts.most_common())}, as_json=as_json
    )


def _run(stage: "Redrive", chosen: "Selection", limit: int, *, as_json: bool) -> None:
    from pipeline import telemetry  # noqa: PLC0415

    with telemetry.stop_signals() as stopping:
        plan = stage.plan(chosen, limit)
        try:
            with telemetry.progress("redriven", stage.counts, len(plan.chosen)) as tick:
                stage.run(plan, stopping, tick)
        finally:
            telemetry.result(stage.counts()[1], stage.totals.summary(), as_json=as_json)
    raise typer.Exit(3 if stage.totals.skipped else 0)
