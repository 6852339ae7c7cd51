"""`python -m pipeline.produce`: orders from a file or a pipe into the topic, each acknowledged or named."""

from typing import Annotated

import typer

from pipeline.door import door

app = door()


@app.command()
def main(
    source: Annotated[
        str | None, typer.Option("--input", "-i", help="NDJSON or CSV, plain or gzip; - is stdin.")
    ] = None,
    generate: Annotated[
        int | None, typer.Option(min=1, help="Make up this many orders instead of reading any.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --generate: the same seed gives the same orders.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic to publish to.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most this many orders a second.")] = None,
    rejects: Annotated[
        str | None, typer.Option(help="Write refused lines here: NDJSON with line, reason, input.")
    ] = None,
    unacknowledged: Annotated[
        str | None,
        typer.Option(
            help="Write orders without an acknowledgement here, in the input's format. By default a new file."
        ),
    ] = None,
    give_up_after: Annotated[
        float,
        typer.Option(min=0, help="Seconds without any acknowledgement after which to give up; 0 waits without end."),
    ] = 300,
    bootstrap_servers: Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for every acknowledged order.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
) -> None:
    """Publish orders, keyed by order id.

    While the broker is away nothing more is read, and it goes on when the broker is back. What has no acknowledgement at the
    end is kept whole in a file.

    Exit codes: 0 all published, or stopped by a signal (stderr says after which line) · 1 some not acknowledged, the
    input broke off, or broker or registry did not answer · 2 refused before anything was sent · 3 published, but some
    input was refused.
    """
    # Imported here so that --help does not load the client.
    from pipeline import heap, settings, telemetry, wiring  # noqa: PLC0415
    from pipeline.errors import Stopped  # noqa: PLC0415
    from pipeline.stages.intake import open_orders  # noqa: PLC0415
    from pipeline.stages.produce import Totals  # noqa: PLC0415

    with telemetry.exit_codes():
        telemetry.start_logging()
        configured = settings.load(
            {"kafka.topic": topic, "kafka.bootstrap_servers": bootstrap_servers}, settings.WITH_SCHEMAS
        )
        try:
            with (
                telemetry.stop_signals() as stopping,
                open_orders(source, generate, seed, stopping) as orders,
                wiring.produce(
                    configured,
                    orders,
                    rate=rate,
                    rejects=rejects,
                    unacknowledged=unacknowledged,
                    give_up_after_s=give_up_after,
                    stopping=stopping,
                    verbose=verbose,
                ) as stage,
            ):
                orders.meanwhile = stage.meanwhile
                heap.settle()
                try:
                    with telemetry.progress("published", stage.counts, generate) as tick:
                        stage.run(orders, stopping, tick)
                finally:
                    telemetry.result(
                        f"{stage.counts()[0]} read, {stage.counts()[1]}", stage.totals.summary(), as_json=as_json
                    )
                if stage.gave_up:
                    telemetry.say(f"✖ no acknowledgement for {give_up_after:g} s: given up")
                if not stage.read_all:
                    telemetry.say(f"✖ stopped {orders.rest()}")
        except Stopped:
            telemetry.result("0 read, 0 published", Totals().summary(), as_json=as_json)
            telemetry.say("✖ stopped before anything was read: nothing was published")
            raise typer.Exit from None
        raise typer.Exit(1 if stage.totals.failed else 3 if stage.totals.refused else 0)


if __name__ == "__main__":
    app()
