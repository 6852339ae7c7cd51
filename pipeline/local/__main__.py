"""`python -m pipeline.local up | down | status | logs | env`: Kafka and a schema registry here, without Docker or Java."""

import os
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.door import door

if TYPE_CHECKING:
    from pipeline.local.ports import Ports
    from pipeline.local.stack import LocalStack

app = door(
    no_args_is_help=True, help="A real Kafka and a real schema registry on this machine, without Docker or Java."
)
_NEXT = "next: make topics register-schemas, then make demo. make down stops them; the data stay."


@app.command()
def up(
    *,
    ephemeral: Annotated[
        bool,
        typer.Option("--ephemeral", help="Free ports and a temporary folder, until Ctrl-C; leaves nothing behind."),
    ] = False,
    brokers: Annotated[
        int,
        typer.Option(
            min=0,
            max=9,
            show_default=False,
            help="How many brokers, on ports next to each other. With three there are three copies of everything, and two "
            "have to be written. Without it as many as there were, or one.",
        ),
    ] = 0,
    hint: Annotated[bool, typer.Option(help="Say what to do next.")] = True,
) -> None:
    """Start Kafka and the registry, and wait until they answer.

    The first time, their jars are fetched (200 MB) and checked, and class archives are made (20 s).
    """
    from pipeline import settings, telemetry  # noqa: PLC0415  # --help must be quick
    from pipeline.local import artifacts, class_archives, stack  # noqa: PLC0415
    from pipeline.local.display import fetch_progress  # noqa: PLC0415
    from pipeline.local.folder import alone, usable  # noqa: PLC0415

    with telemetry.exit_codes():
        # As Ctrl-C does: what is half started is ended before this ends.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        configured = settings.load(uses=()).local
        with fetch_progress() as progress:
            installed = class_archives.install(
                configured.cache_dir or artifacts.default_cache(), progress, telemetry.say
            )
        if ephemeral:
            with (
                telemetry.stop_signals() as stopping,
                stack.ephemeral_stack(installed, telemetry.say, brokers=brokers or 1) as running,
            ):
                telemetry.result(_exports(running), {}, as_json=False)
                while not stopping() and all(server.pid for server in running.servers):
                    time.sleep(0.2)
            return
        folder = configured.dir or stack.default_folder()
        with usable(folder, stack.DIR_SETTING), alone(folder, telemetry.say):
            local = stack.LocalStack(folder, _ports(folder, brokers), installed)
            started = local.up(telemetry.say)
        telemetry.say(f"Kafka at {local.bootstrap_servers}, the registry at {local.registry_url}")
        if not started:
            telemetry.say("All of it was up already.")
        elif hint:
            telemetry.say(_NEXT)


@app.command()
def down(*, wipe: Annotated[bool, typer.Option("--wipe", help="Forget the data as well.")] = False) -> None:
    """Stop them; their data stay. Only what `up` started is ever stopped."""
    from pipeline import settings, sources, telemetry  # noqa: PLC0415

    with telemetry.exit_codes():
        local = _stack()
        stopped = "stopped" if wipe else "stopped; the data stay"
        telemetry.say(stopped if local.down(telemetry.say) else "nothing was running")
        if not wipe:
            return
        if not local.wipe():
            telemetry.say(f"there was no {local.folder}")
            return
        store = sources.shown("store.url", settings.load(uses=()).store.url)
        telemetry.say(
            f"{local.folder} is gone\n"
            f"If the store ({store}) was filled from these topics, empty it as well: its rows keep their old offsets, "
            "which are higher than those of new topics, so newer versions of its orders would be passed over."
        )


@app.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False) -> None:
    """What of it runs, and where. Exit 0: all of it answers. Exit 1: not all."""
    from pipeline import telemetry  # noqa: PLC0415

    with telemetry.exit_codes():
        states = [state.row() for state in _stack().states()]
        lines = (
            f"{each['name']:<9} {each['state']:<14} {each['address']:<45} pid {each['pid'] or '-':<8} {each['log']}"
            for each in states
        )
        telemetry.result("\n".join(lines), states, as_json=as_json)
    raise typer.Exit(0 if all(each["state"] == "running" for each in states) else 1)


@app.command()
def logs(
    server: Annotated[str, typer.Argument(help="kafka, kafka-2 and so on, or registry; without it all.")] = "",
    *,
    lines: Annotated[int, typer.Option("-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is written.")] = False,
) -> None:
    """The end of their logs."""
    from pipeline import telemetry  # noqa: PLC0415
    from pipeline.errors import Refused  # noqa: PLC0415
    from pipeline.local.folder import usable  # noqa: PLC0415
    from pipeline.local.stack import DIR_SETTING  # noqa: PLC0415

    with telemetry.exit_codes():
        local = _stack()
        with usable(local.folder, DIR_SETTING):
            chosen = [
                path for each in local.servers if server in {"", each.name} for path in each.log_paths if path.exists()
            ]
        if not chosen:
            raise Refused(
                f"No log of {server or 'the stack'} in {local.folder}. Names are in: python -m pipeline.local status."
            )
        if follow:
            # In place of this process: whatever ends it, no tail is left behind.
            os.execvp("tail", ["tail", "-n", str(lines), "-F", *map(str, chosen)])  # noqa: S606, S607
        telemetry.result("\n".join(_end_of(path, lines) for path in chosen), {}, as_json=False)


@app.command()
def env() -> None:
    """Shell lines that point the other commands here. Use: eval "$(python -m pipeline.local env)"."""
    from pipeline import telemetry  # noqa: PLC0415

    with telemetry.exit_codes():
        telemetry.result(_exports(_stack()), {}, as_json=False)


def _stack() -> "LocalStack":
    from pipeline import settings  # noqa: PLC0415
    from pipeline.local import artifacts, stack  # noqa: PLC0415

    configured = settings.load(uses=()).local
    folder = configured.dir or stack.default_folder()
    return stack.LocalStack(folder, _ports(folder, 0), artifacts.NOTHING)


def _ports(folder: Path, brokers: int) -> "Ports":
    """By the settings; of as many brokers as asked for or, where that is 0, as there were."""
    from pipeline import settings  # noqa: PLC0415
    from pipeline.local import ports, stack  # noqa: PLC0415

    configured, recorded = settings.load(uses=()).local, stack.recorded_ports(folder)
    count = brokers or (len(recorded.kafka) if recorded is not None else 1)
    return ports.Ports.chosen(configured.kafka_port, configured.registry_port, count)


def _exports(stack: "LocalStack") -> str:
    return (
        f"export PIPELINE_KAFKA__BOOTSTRAP_SERVERS={shlex.quote(stack.bootstrap_servers)}\n"
        f"export PIPELINE_REGISTRY__URL={shlex.quote(stack.registry_url)}"
    )


def _end_of(path: Path, lines: int) -> str:
    return "\n".join([f"==> {path} <==", *path.read_text(errors="replace").splitlines()[-lines:]])


if __name__ == "__main__":
    app()
