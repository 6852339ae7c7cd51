"""`python -m pipeline.api`: the orders API with its worker, and the dashboard."""

from typing import Annotated

import typer

from pipeline.door import door

app = door()


@app.command()
def main(
    port: Annotated[int | None, typer.Option("--port", "-p", help="Where to listen.")] = None,
    host: Annotated[str | None, typer.Option(help="On which address; 0.0.0.0 for all.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic of the orders.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The consumer group of the worker.")] = None,
    worker: Annotated[
        bool | None, typer.Option("--worker/--no-worker", help="Whether a worker runs in this process.")
    ] = None,
    bootstrap_servers: Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")] = None,
) -> None:
    """Take orders over HTTP: 202 only after the broker's acknowledgement. The dashboard is at /, the documentation at /docs.

    Exit codes: 0 stopped · 1 failed while running · 2 refused at the start · 4 another process with the same instance
    name took over the worker. Broker, registry and store that are absent are waited for.
    """
    from pipeline import heap, settings, telemetry  # noqa: PLC0415  # --help must not load the client
    from pipeline.errors import Refused, SettingsRefused  # noqa: PLC0415

    with telemetry.exit_codes():
        try:
            from pipeline.api import app as web  # noqa: PLC0415
            from pipeline.api import server, service  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise Refused(f"The API needs {error.name}: pip install 'orders-pipeline[api]'.") from error

        telemetry.start_logging(service=True)
        configured = settings.load(
            {
                "api.port": port,
                "api.host": host,
                "api.worker": worker,
                "kafka.topic": topic,
                "kafka.consumer_group": group,
                "kafka.bootstrap_servers": bootstrap_servers,
            },
            settings.CONSUMES,
        )
        telemetry.start_logging(
            configured.log.level,
            configured.log.format,
            service=True,
            topic=configured.kafka.topic,
            group=configured.kafka.consumer_group,
        )
        api = configured.api
        if not api.secrets and not settings.is_loopback(api.host):
            raise SettingsRefused(
                f"api.host={api.host} lets others than this machine in, and without api.keys each of them may send orders and "
                "read dead letters. Set PIPELINE_API__KEYS, or leave api.host at 127.0.0.1 and put a proxy before it."
            )
        with telemetry.stop_signals() as stopping:
            holds = service.Service(configured)
            listening = server.listen(api.host, api.port)
            shown = f"[{api.host}]" if ":" in api.host else api.host
            telemetry.say(
                f"http://{shown}:{api.port}/ is the dashboard, /docs the documentation, POST /api/orders the way in"
            )
            if not settings.is_loopback(api.host):
                telemetry.say("! No TLS: keys and orders travel unencrypted. Put a proxy that speaks it before this.")
            heap.settle()
            server.serve(web.application(holds), holds, listening, stopping)


if __name__ == "__main__":
    app()
