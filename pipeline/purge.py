"""`python -m pipeline.deadletters purge`: letters that nobody needs any more, deleted for good."""

from typing import Annotated

import typer

from pipeline.redrive import Json, Servers, Topic


def purge(
    *,
    redriven: Annotated[bool, typer.Option("--redriven", help="Letters that were redriven or parked.")] = False,
    before: Annotated[
        str | None, typer.Option(help="Letters that failed before this time: ISO 8601, zone.", metavar="TIME")
    ] = None,
    including_due: Annotated[
        bool, typer.Option("--including-due", help="With --before: also those that were never redriven.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only the plan, as without --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only the plan is shown.")] = False,
    topic: Topic = None,
    bootstrap_servers: Servers = None,
    as_json: Json = False,
) -> None:
    """Delete the oldest letters of each partition. Up to the first that has to stay; shows the plan, acts with --yes.

    Exit codes: 0 done, or planned · 1 failed while running: run it again · 2 refused, nothing changed.
    """
    from pipeline import settings, telemetry, wiring  # noqa: PLC0415  # --help must not load the client
    from pipeline.core.purge import rule  # noqa: PLC0415
    from pipeline.stages.purge import text, values  # noqa: PLC0415

    with telemetry.exit_codes():
        chosen = rule(redriven=redriven, before=before, including_due=including_due)
        telemetry.start_logging()
        configured = settings.load(
            {"kafka.dead_letter_topic": topic, "kafka.bootstrap_servers": bootstrap_servers}, settings.WITH_SCHEMAS
        )
        with wiring.purge(configured) as stage:
            found = stage.plan(chosen)
            if yes and not dry_run:
                found = stage.act(found, including_due=including_due)
        telemetry.result(text(found, including_due=including_due), values(found), as_json=as_json)
