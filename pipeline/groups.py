"""`python -m pipeline.groups list | describe | reset`: consumer groups, how far they are, and moving them."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.door import door
from pipeline.telemetry import exit_codes, result

if TYPE_CHECKING:
    from pipeline.kafka.admin import Cluster

app = door(no_args_is_help=True, help=__doc__)
Name = Annotated[str, typer.Argument(help="The consumer group.", metavar="GROUP")]
Servers = Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the broker.")]
Json = Annotated[bool, typer.Option("--json", help="Exactly one line of JSON on stdout.")]


@app.command("list")
def list_(bootstrap_servers: Servers = None, timeout: Timeout = 30, as_json: Json = False) -> None:
    """Every group: state, protocol, members, total lag."""
    with exit_codes():
        from pipeline.errors import PipelineError  # noqa: PLC0415  # --help must not load the client
        from pipeline.stages import groups  # noqa: PLC0415

        found = groups.survey(_cluster(bootstrap_servers, timeout), _now_ms())
        result(groups.listed(found), [groups.summary(group) for group in found], as_json=as_json)
        if problems := [f"{it.group.name}: {it.problem}" for it in found if it.problem]:
            raise PipelineError(f"No lag can be told of {'; '.join(problems)}. Ask again once the cluster is whole")


@app.command()
def describe(group: Name, bootstrap_servers: Servers = None, timeout: Timeout = 30, as_json: Json = False) -> None:
    """One group in full. Lag of each partition in messages and seconds, members, assignment."""
    with exit_codes():
        from pipeline.stages import groups  # noqa: PLC0415

        found = groups.describe(_cluster(bootstrap_servers, timeout), group, _now_ms())
        result(groups.described(found), groups.values(found), as_json=as_json)


@app.command()
def reset(
    group: Name,
    *,
    topic: Annotated[str, typer.Option("--topic", "-t", help="The topic to move in.")],
    to: Annotated[str, typer.Option(help="earliest, latest, an offset, or a time: 2026-01-31T08:00:00Z.")],
    partition: Annotated[list[int] | None, typer.Option(help="Only this one; may be given again.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only the plan is shown.")] = False,
    bootstrap_servers: Servers = None,
    timeout: Timeout = 30,
    as_json: Json = False,
) -> None:
    """Move a group without members. Shows the plan, and acts with --yes.

    Exit codes: 0 done, or planned · 1 broker absent · 2 refused, nothing changed.
    """
    with exit_codes():
        from pipeline.core.group_plan import parse_target  # noqa: PLC0415
        from pipeline.stages import groups  # noqa: PLC0415

        target = parse_target(to)
        cluster = _cluster(bootstrap_servers, timeout)
        moved = groups.plan_reset(cluster, group, topic, target, partition or ())
        if yes:
            moved = groups.act(cluster, moved)
        result(groups.reset_text(moved), groups.reset_values(moved), as_json=as_json)


def _cluster(bootstrap_servers: str | None, timeout_s: float) -> "Cluster":
    from pipeline import settings, wiring  # noqa: PLC0415

    cluster = wiring.cluster(settings.load({"kafka.bootstrap_servers": bootstrap_servers}, (settings.KAFKA,)))
    cluster.wait_until_reachable(timeout_s)
    return cluster


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    app()
