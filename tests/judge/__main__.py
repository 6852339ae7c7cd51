"""python -m tests.judge: ask Avro's Java library about random pairs of schemas and their data; print what differs."""

import argparse
import gzip
import json
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.judge.compare import Case, cases, disagreements
from tests.judge.java import judge

CORPUS = Path(__file__).parent / "corpus.ndjson.gz"


def ask(asked: Iterable[Case], corpus: Path | None = None) -> tuple[int, int, list[str]]:
    """How many pairs and data were judged, and each fault of ours; `corpus` keeps the cases with Java's answers."""
    pairs = data = 0
    faults: list[str] = []
    lines: list[str] = []
    with judge() as java:
        for case in asked:
            said = java.ask(case.writer, case.reader, [*case.sound, *case.bent])
            pairs, data = pairs + 1, data + len(case.sound) + len(case.bent)
            faults += [f"seed {case.seed}: {fault}" for fault in disagreements(case, said)]
            lines.append(json.dumps({**case.as_json(), "said": said}, separators=(",", ":")))
    if corpus is not None:
        # Without a time in its header, the same cases make the same file.
        corpus.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    return pairs, data, faults


def kept() -> list[tuple[Case, object]]:
    """The cases of the corpus with what Java said."""
    lines = map(json.loads, gzip.decompress(CORPUS.read_bytes()).decode().splitlines())
    return [(Case.from_json(line), line["said"]) for line in lines]


def main() -> int:
    """0 where we agree with Java on everything but what is listed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000, help="how many pairs of schemas (default: 10 000)")
    parser.add_argument("--seed", type=int, help="the first one's seed; a random one otherwise, which is printed")
    parser.add_argument("--corpus", action="store_true", help="keep the first 400 with Java's answers for make test")
    asked = parser.parse_args()
    seed = 0 if asked.corpus else secrets.randbelow(1 << 31) if asked.seed is None else asked.seed
    print(f"seeds from {seed} on", file=sys.stderr)
    count = 400 if asked.corpus else asked.pairs
    pairs, data, faults = ask(cases(seed, count), CORPUS if asked.corpus else None)
    print("\n".join([*faults, f"{pairs} pairs, {data} data, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
