"""`python -m pipeline.consume`: a worker of a group, from the topic to the store, or to a handler of yours."""

from typing import Annotated

import typer

from pipeline.door import door

app = door()


@app.command()
def main(
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic to work off.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The consumer group to join.")] = None,
    handler: Annotated[str | None, typer.Option(help="module:name; without it orders are stored in SQL.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="A lasting name for this member: back at once after a crash.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", help="Handlers that run side by side.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", "-p", help="Members of the group to run here, each its own process.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Pass records of other event types over, counted and committed.")
    ] = False,
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end",
            help="Stop at the end that the topic has at the start; what went to retry topics meanwhile waits there.",
        ),
    ] = False,
    until_settled: Annotated[
        bool,
        typer.Option(
            "--until-settled",
            help="The same, once all of it is settled, what went to retry topics too: that takes as long as they delay.",
        ),
    ] = False,
    bootstrap_servers: Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for every settled record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
    result_fd: Annotated[
        int | None, typer.Option("--result-fd", hidden=True, help="Of a member's: where it goes.")
    ] = None,
) -> None:
    """Work a topic off: decode, validate, handle, then commit. What can never be handled becomes a dead letter.

    Exit codes: 0 stopped or at the end, however many dead letters · 1 failed while running, or with --until-end broker
    or registry did not answer for 30 s · 2 refused at the start · 4 another process with the same --instance took over.

    Without --until-end, a broker or registry that is absent is waited for.
    """
    # Imported here so that --help does not load the client.
    from pipeline import metrics, settings, supervisor, telemetry  # noqa: PLC0415

    with telemetry.exit_codes():
        telemetry.start_logging(service=True)
        configured = settings.load(
            {
                "kafka.topic": topic,
                "kafka.consumer_group": group,
                "kafka.instance": instance,
                "kafka.bootstrap_servers": bootstrap_servers,
                "consume.concurrency": concurrency,
                "consume.processes": processes,
                "consume.only": only or None,
            },
            settings.CONSUMES,
        )
        telemetry.start_logging(
            configured.log.level,
            configured.log.format,
            service=True,
            instance=configured.kafka.instance,
            topic=configured.kafka.topic,
            group=configured.kafka.consumer_group,
        )
        labels = {"topic": configured.kafka.topic, "group": configured.kafka.consumer_group}
        if configured.consume.processes > 1:
            raise typer.Exit(
                supervisor.run(
                    "consume",
                    configured.consume.processes,
                    instance=configured.kafka.instance,
                    until_end=until_end or until_settled,
                    labels=labels,
                    served=configured.metrics,
                    as_json=as_json,
                )
            )
        # The supervisor needs no client.
        from pipeline import heap, wiring  # noqa: PLC0415
        from pipeline.errors import Stopped  # noqa: PLC0415
        from pipeline.stages.consume import Totals  # noqa: PLC0415

        try:
            with (
                telemetry.stop_signals() as stopping,
                wiring.consume(
                    configured,
                    handler=handler,
                    until_end=until_end,
                    until_settled=until_settled,
                    stopping=stopping,
                    verbose=verbose,
                ) as stage,
                metrics.served(stage, labels, configured.metrics.host, configured.metrics.port),
            ):
                heap.settle()
                try:
                    with telemetry.progress("consumed", stage.counts) as tick:
                        stage.run(stopping, tick)
                finally:
                    telemetry.result(
                        f"{stage.counts()[0]} consumed, {stage.counts()[1]}{telemetry.waiting(stage, once=until_end)}",
                        stage.summary(),
                        as_json=as_json,
                        fd=result_fd,
                    )
        except Stopped:
            telemetry.result("0 consumed: stopped before it began", Totals().summary(), as_json=as_json, fd=result_fd)


if __name__ == "__main__":
    app()
