"""What Avro's Java library says of random pairs of schemas and data, and our codec beside it."""

import secrets
from pathlib import Path

import pytest

from tests.judge.__main__ import ask, kept
from tests.judge.compare import cases, disagreements


def test_codec_agrees_with_what_java_said_of_the_kept_cases() -> None:
    faults = [f"seed {case.seed}: {fault}" for case, said in kept() for fault in disagreements(case, said)]
    assert not faults, "\n".join(faults)


def test_kept_cases_are_read_and_refused_by_java() -> None:
    """A corpus of one kind alone would agree with anything."""
    said = [verdict[0] for _, answer in kept() for verdict in answer["data"]]  # type: ignore[index]
    assert said.count("=") > len(said) / 2
    assert said.count("!") > len(said) / 10
    assert sum(case.writer != case.reader for case, _ in kept()) > len(kept()) / 3


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_codec_agrees_with_java_on_ten_thousand_pairs_and_a_hundred_thousand_data(tmp_path: Path) -> None:
    """Needs a JDK and Maven; the seeds are in the message."""
    seed = secrets.randbelow(1 << 31)
    pairs, data, faults = ask(cases(seed, 10_500, data=6), tmp_path / "judged.ndjson.gz")
    assert not faults, f"seeds from {seed} on:\n" + "\n".join(faults)
    assert pairs >= 10_000
    assert data >= 100_000
