"""`python -m pipeline.schemas`: the Avro contracts: checked, registered, compared with the registry, listed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.door import door
from pipeline.telemetry import exit_codes, result, say

if TYPE_CHECKING:
    from pipeline.kafka.registry import Registry
    from pipeline.serde.schema_files import Schemas

app = door(no_args_is_help=True, help="The Avro contracts: schemas/<subject>/v<N>.avsc.")
Dir = Annotated[Path | None, typer.Option(help="The schema directory.", show_default="schemas/, or the packed ones")]
Url = Annotated[str | None, typer.Option(help="The registry's Confluent-compatible API.", show_default="the setting")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the registry.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]


@app.command()
def check(dir: Dir = None) -> None:  # noqa: A002  # the name of the flag
    """Refuse what cannot read its older versions. Exit 2; asks no registry."""
    with exit_codes():
        from pipeline.stages import schema_gate, schema_report  # noqa: PLC0415  # --help must not load the client

        schemas = _files(dir)
        schema_gate.check(schemas)
        result(schema_report.checked_text(schemas), {}, as_json=False)


@app.command()
def register(dir: Dir = None, registry_url: Url = None, timeout: Timeout = 30, as_json: Json = False) -> None:  # noqa: A002
    """Register every version that is missing. After `check`, against what is registered; again changes nothing."""
    with exit_codes():
        from pipeline.stages import schema_gate, schema_report  # noqa: PLC0415

        schemas = _files(dir)
        with _registry(registry_url, timeout) as registry:
            entries = schema_gate.register(schemas, registry, say)
        result(schema_report.entries_text(entries), schema_report.entries_values(entries), as_json=as_json)


@app.command()
def diff(dir: Dir = None, registry_url: Url = None, timeout: Timeout = 30, as_json: Json = False) -> None:  # noqa: A002
    """Compare the registry with the files. Exit 0: the same. Exit 1: they differ, or nobody answered (see stderr)."""
    with exit_codes():
        from pipeline.stages import schema_gate, schema_report  # noqa: PLC0415

        schemas = _files(dir)
        with _registry(registry_url, timeout) as registry:
            standings = schema_gate.survey(schemas, registry)
        found = schema_report.differences(standings)
        result(schema_report.differences_text(standings), schema_report.differences_values(standings), as_json=as_json)
    raise typer.Exit(1 if found else 0)


@app.command("list")
def list_(
    dir: Dir = None,  # noqa: A002
    registry_url: Url = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every subject of the registry, not only the files'.")
    ] = False,
    timeout: Timeout = 30,
    as_json: Json = False,
) -> None:
    """Subjects, compatibility, registered versions with ids."""
    with exit_codes():
        from pipeline.stages import schema_report  # noqa: PLC0415

        schemas = _files(dir)
        with _registry(registry_url, timeout) as registry:
            rows = schema_report.listing(schemas, registry, everything=everything)
        result(schema_report.listing_text(rows), rows, as_json=as_json)


def _files(directory: Path | None) -> "Schemas":
    from pipeline.serde import schema_files  # noqa: PLC0415
    from pipeline.settings import load  # noqa: PLC0415

    return schema_files.load(schema_files.directory(load({"schemas.dir": directory}, ()).schemas.dir))


def _registry(url: str | None, timeout: float) -> "Registry":
    from pipeline import wiring  # noqa: PLC0415
    from pipeline.settings import REGISTRY, load  # noqa: PLC0415

    settings = load({"registry.url": url}, (REGISTRY,))
    if timeout / 2 < settings.registry.timeout_s:
        # A request may take its time twice: one to a silent address must not outlast the wait.
        settings = load({"registry.url": url, "registry.timeout_s": timeout / 2}, (REGISTRY,))
    registry = wiring.registry(settings)
    registry.wait_until_reachable(timeout)
    return registry


if __name__ == "__main__":
    app()
