"""`pipeline X ...`, the same as `python -m pipeline.X ...`, once the package is installed."""

import runpy
import sys

from pipeline.version import DISTRIBUTION, version

DOORS = {
    "local": "a real Kafka and schema registry on this machine: up, down, status, logs, env",
    "topics": "the declared topics: plan, apply, describe",
    "schemas": "the Avro contracts: check, register, diff, list",
    "produce": "orders into the topic",
    "consume": "a worker of a group: from the topic to the store",
    "api": "orders over HTTP, a worker, and the dashboard",
    "forward": "records into another topic, exactly once",
    "deadletters": "what was given up, and why: list, show, stats, export, redrive, purge",
    "groups": "consumer groups: list, describe, reset",
    "config": "the settings, and where each value came from: show",
}


_MORE = "pipeline COMMAND --help tells more; pipeline --version says which one this is."


def main() -> None:
    """Run one door as `python -m` would."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {"-V", "--version"}:
        sys.stdout.write(f"{DISTRIBUTION} {version()}\n")
        return
    if name not in DOORS:
        wanted = name in {"", "-h", "--help"}
        lines = "\n".join(f"  {door:<12} {words}" for door, words in DOORS.items())
        problem = "" if wanted else f"✖ There is no command {name}.\n\n"
        asked = wanted and name
        out = sys.stdout if asked else sys.stderr
        out.write(f"{problem}usage: pipeline COMMAND ...\n\n{lines}\n\n{_MORE}\n")
        sys.exit(0 if asked else 2)
    sys.argv = [f"pipeline {name}", *sys.argv[2:]]
    runpy.run_module(f"pipeline.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
