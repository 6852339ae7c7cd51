"""The pipeline beside the raw client and its peers, in one run on one stack: ratios, because machines are noisy.

Every contender is a process of its own and moves the same bytes through topics with the same settings. They take turns,
several rounds; medians are compared.
"""

import json
import logging
import sys
from typing import Annotated

import typer

from bench import costs, ten_ms
from bench.place import somewhere
from bench.programs import without_missing
from pipeline.telemetry import start_logging


def main(
    orders: Annotated[int, typer.Option(min=1000, help="How many orders every contender moves.")] = 500_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 3,
    only: Annotated[str, typer.Option(metavar="NAME", help="Only contenders with this in their name.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout as well.")] = False,
) -> None:
    """Measure, and print the tables."""
    start_logging(logging.WARNING)
    chosen = [each for each in costs.CONTENDERS if only.lower() in each.name.lower()]
    slow = [each for each in ten_ms.CONTENDERS if only.lower() in each.name.lower()]
    if not chosen and not slow:
        names = ", ".join(repr(each.name) for each in (*costs.CONTENDERS, *ten_ms.CONTENDERS))
        raise typer.BadParameter(f"no contender has {only!r} in its name. There are {names}.")
    chosen, slow = without_missing(chosen, _say), without_missing(slow, _say)
    if not chosen and not slow:
        raise typer.Exit(2)
    found = {}
    with somewhere(_say) as place:
        place.fill(orders)
        rows = costs.measure(chosen, place, rounds, _say)
        found = costs.summary(rows)
        if slow:
            ten_ms.fill(place)
        slow_rows = ten_ms.measure(slow, place, rounds, _say)
    if rows:
        costs.show(found)
    if slow_rows:
        ten_ms.show(slow_rows)
    if as_json:
        print(json.dumps(found | {row.contender.name: row.summary() for row in slow_rows}))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    typer.run(main)
