"""The figures on the page of results are those of the last run, and of nobody's hand."""

import json
from xml.etree import ElementTree as ET

import pytest

from bench import goals, results

FOUND = json.loads((results.FOLDER / "results.json").read_text())


def test_page_of_results_says_what_the_run_has_measured() -> None:
    assert (results.FOLDER / "results.md").read_text() == results.page(FOUND)


@pytest.mark.parametrize("name", [name for name in results.PLOTS if name in FOUND])
def test_plot_shows_what_the_run_has_measured(name: str) -> None:
    drawn = (results.FOLDER / f"{name}.svg").read_text()
    assert drawn == results.PLOTS[name](FOUND[name]["found"])
    ET.fromstring(drawn)


def test_goal_that_is_missed_is_called_below() -> None:
    rates = {"pipeline, forward": 50.0, "Kafka Streams, forward": 100.0, "Quix Streams, forward": 10.0}
    found = {"costs": {name: {"rate": rate} for name, rate in rates.items()}, "latency": {"5000": {"p99": 30.0}}}
    verdicts = {work: verdict for work, _, _, _, verdict in goals.rows(found)}
    assert verdicts["forward / Kafka Streams"] == "below"
    assert verdicts["forward / Quix Streams"] == "goal"
    assert verdicts["p99 end to end at 5 000/s"] == "floor"
    assert verdicts["produce from models / raw"] == "–"
