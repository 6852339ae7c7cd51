"""`python -m pipeline.topics`: the declared topics against the cluster: planned, applied, described."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.door import door
from pipeline.telemetry import exit_codes, result, say

app = door()


@app.command()
def main(
    action: Annotated[Literal["plan", "apply", "describe"], typer.Argument(help="What to do.")],
    *,
    file: Annotated[Path | None, typer.Option(help="The declaration, instead of schemas/topics.toml.")] = None,
    bootstrap_servers: Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="host:port,...")] = None,
    partitions: Annotated[int | None, typer.Option(help="Partitions of every topic, whatever the file says.")] = None,
    replication: Annotated[int | None, typer.Option(help="Copies of every topic; -1 is the broker's default.")] = None,
    grow: Annotated[bool, typer.Option("--grow", help="Add partitions where there are too few: keys move.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the broker, then for leaders.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
) -> None:
    """Bring the declared topics about: create what is missing, report what differs, never delete.

    plan shows what apply would do; describe shows partitions, leaders and replicas in sync.

    Exit codes: 0 done · 1 broker absent, or describe found a topic missing · 2 refused before anything was created.
    """
    with exit_codes():
        from pipeline import settings, wiring  # noqa: PLC0415  # --help must not load the client
        from pipeline.errors import PipelineError  # noqa: PLC0415
        from pipeline.serde import schema_files  # noqa: PLC0415
        from pipeline.stages import provision, topic_report  # noqa: PLC0415

        loaded = settings.load({"kafka.bootstrap_servers": bootstrap_servers}, (settings.KAFKA,))
        beside = schema_files.directory(loaded.schemas.dir) / "topics.toml"
        declared = provision.read(file or loaded.topics.file or beside, partitions, replication)
        cluster = wiring.cluster(loaded)
        say(f"Kafka at {cluster.where}; declared: {', '.join(topic.name for topic in declared)}")
        cluster.wait_until_reachable(timeout)
        if action == "apply":
            outcome = provision.apply(cluster, declared, grow=grow, timeout_s=timeout, say=say)
            text = topic_report.applied(outcome)
        else:
            outcome = provision.survey(cluster, declared, grow=grow)
            text = topic_report.planned(outcome) if action == "plan" else topic_report.described(outcome)
        result(text, topic_report.values(outcome), as_json=as_json)
        if action == "describe" and outcome.missing:
            raise PipelineError(f"Not there: {', '.join(outcome.missing)}. make topics creates the declared topics")


if __name__ == "__main__":
    app()
