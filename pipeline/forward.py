"""`python -m pipeline.forward`: records re-keyed into another topic, exactly once."""

import socket
from typing import Annotated

import typer

from pipeline.door import door

app = door()


@app.command()
def main(
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic to forward.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The topic to write to.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The consumer group to join.")] = None,
    transform: Annotated[
        str, typer.Option(help="module:name; record in, none, one or many keyed records out.")
    ] = "pipeline.orders:by_customer",
    instance: Annotated[
        str | None, typer.Option(help="A lasting name, of this instance alone; the host's by default.")
    ] = None,
    commit_interval: Annotated[float | None, typer.Option(help="Seconds that a transaction lasts.")] = None,
    batch: Annotated[int | None, typer.Option(help="Records that end it earlier.")] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
    result_fd: Annotated[
        int | None, typer.Option("--result-fd", hidden=True, help="Of a member's: where it goes.")
    ] = None,
) -> None:
    """Forward a topic exactly once: what is written, dead letters and offsets are one transaction, or none of it is.

    Exit codes: 0 stopped or at the end, however many dead letters · 1 failed while running · 2 refused at the start ·
    4 another process with the same --instance is alive.
    """
    # Imported here so that --help does not load the client.
    from pipeline import faults, metrics, settings, supervisor, telemetry  # noqa: PLC0415

    with telemetry.exit_codes():
        telemetry.start_logging(service=True)
        configured = settings.load(
            {
                "kafka.topic": topic,
                "kafka.instance": instance,
                "kafka.bootstrap_servers": bootstrap_servers,
                "forward.topic": to,
                "forward.group": group,
                "forward.commit_interval_s": commit_interval,
                "forward.batch": batch,
                "forward.processes": processes,
                "forward.only": only or None,
            },
            settings.FORWARDS,
        )
        telemetry.start_logging(
            configured.log.level,
            configured.log.format,
            service=True,
            instance=configured.kafka.instance,
            topic=configured.kafka.topic,
            group=configured.forward.group,
        )
        labels = {"topic": configured.kafka.topic, "group": configured.forward.group}
        if configured.forward.processes > 1:
            raise typer.Exit(
                supervisor.run(
                    "forward",
                    configured.forward.processes,
                    # Each needs a transactional id of its own that it has again after a crash.
                    instance=configured.kafka.instance or socket.gethostname(),
                    until_end=until_end or until_settled,
                    labels=labels,
                    served=configured.metrics,
                    as_json=as_json,
                )
            )
        # The supervisor needs no client.
        from pipeline import heap, wiring  # noqa: PLC0415
        from pipeline.errors import Stopped  # noqa: PLC0415
        from pipeline.stages.forward import Totals  # noqa: PLC0415

        try:
            with (
                telemetry.stop_signals() as stopping,
                wiring.forward(
                    configured,
                    transform=transform,
                    until_end=until_end,
                    until_settled=until_settled,
                    stopping=stopping,
                    pause_at=faults.from_environment(),
                ) as stage,
                metrics.served(stage, labels, configured.metrics.host, configured.metrics.port),
            ):
                heap.settle()
                try:
                    with telemetry.progress("forwarded", stage.counts) as tick:
                        stage.run(stopping, tick)
                finally:
                    telemetry.result(
                        f"{stage.counts()[1]}{telemetry.waiting(stage, once=until_end)}",
                        stage.summary(),
                        as_json=as_json,
                        fd=result_fd,
                    )
        except Stopped:
            telemetry.result("stopped before it began", Totals().summary(), as_json=as_json, fd=result_fd)


if __name__ == "__main__":
    app()
