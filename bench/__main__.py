"""The pipeline beside the raw client and its peers, in one run on one stack: ratios, because machines are noisy.

Every contender is a process of its own and moves the same bytes through topics with the same settings. They take turns,
several rounds; medians are compared.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import costs, curve, goals, latency, results, soak, start, ten_ms
from bench.place import Place, somewhere
from bench.programs import without_missing
from pipeline.telemetry import start_logging


def main(
    orders: Annotated[int, typer.Option(min=1000, help="How many orders every contender moves.")] = 500_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 3,
    only: Annotated[
        str, typer.Option(metavar="NAME", help="Only contenders with this in their name; nothing is written.")
    ] = "",
    with_latency: Annotated[bool, typer.Option("--latency", help="Latency end to end instead.")] = False,
    with_curve: Annotated[bool, typer.Option("--curve", help="1, 2 and 4 processes instead.")] = False,
    with_start: Annotated[bool, typer.Option("--start", help="How long commands take to start instead.")] = False,
    soaked: Annotated[
        int | None, typer.Option("--soak", min=10_000, metavar="N", help="So many orders through one worker instead.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"All of it, with a soak of {soak.DEFAULT:,} orders unless --soak says.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where results.json, results.md and the plots go.")] = results.FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout as well.")] = False,
) -> None:
    """Measure, print the tables, and write them down."""
    start_logging(logging.WARNING)
    asked = {"latency": with_latency, "curve": with_curve, "soak": bool(soaked), "start": with_start}
    sections = [name for name in SHOWS if everything or asked.get(name)] or ["costs", "ten_ms"]
    chosen, slow = _chosen(only) if "costs" in sections else ([], [])
    stacks = start.stack(_say) if "start" in sections else {}
    with somewhere(_say) as place:
        place.fill(orders)
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "costs": lambda: costs.summary(costs.measure(chosen, place, rounds, _say)),
            "ten_ms": lambda: _ten_ms(slow, place, rounds),
            "latency": lambda: latency.measure(place, _say),
            "curve": lambda: curve.measure(place, _say),
            "soak": lambda: soak.measure(place, soaked or soak.DEFAULT, _say),
            "start": lambda: stacks | start.measure(place, _say),
        }
        idle = {name for name, contenders in (("costs", chosen), ("ten_ms", slow)) if not contenders}
        found: dict[str, dict[str, Any]] = {}
        for name in sections:
            if name in idle:
                continue
            found[name] = measures[name]()
            SHOWS[name](found[name])
            if not only:
                # At once: what fails later takes nothing with it.
                results.write(out, {name: found[name]}, {"orders": orders, "rounds": rounds})
                _say(f"written to {out}")
    goals.show(found)
    if as_json:
        print(json.dumps(found))


SHOWS = {
    "costs": costs.show,
    "ten_ms": ten_ms.show,
    "latency": latency.show,
    "curve": curve.show,
    "soak": soak.show,
    "start": start.show,
}


def _chosen(only: str) -> tuple[list[costs.Contender], list[ten_ms.Contender]]:
    chosen = [each for each in costs.CONTENDERS if only.lower() in each.name.lower()]
    slow = [each for each in ten_ms.CONTENDERS if only.lower() in each.name.lower()]
    if not chosen and not slow:
        names = ", ".join(repr(each.name) for each in (*costs.CONTENDERS, *ten_ms.CONTENDERS))
        raise typer.BadParameter(f"no contender has {only!r} in its name. There are {names}.")
    chosen, slow = without_missing(chosen, _say), without_missing(slow, _say)
    if not chosen and not slow:
        raise typer.Exit(2)
    return chosen, slow


def _ten_ms(slow: Sequence[ten_ms.Contender], place: Place, rounds: int) -> dict[str, Any]:
    ten_ms.fill(place)
    rows = ten_ms.measure(slow, place, rounds, _say)
    return {row.contender.name: row.summary() for row in rows}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    typer.run(main)
