"""`python -m tests.chaos`: forwarders under faults, seed by seed, and what a checker finds in what readers saw."""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.local import artifacts, class_archives
from pipeline.local.stack import LocalStack, ephemeral_stack
from tests.chaos import faults
from tests.chaos.checker import Kind, check, summary
from tests.chaos.history import History, Outcome
from tests.chaos.network import Network
from tests.chaos.world import NotInTime, World

INSTANCES = ("a", "b", "c")
ORDERS = 22_186  # as many as the file has that can be published
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Verdict:
    """What one seed came to."""

    seed: int
    seconds: int
    protocol: str
    orders: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    read_during_faults: int = 0
    healed_after_s: float | None = None
    # By the client that feeds the source, before any forwarder sees them: librdkafka's issue 4953.
    sent_twice: int = 0
    # Ended with exit 4 though no twin lived: a static member whose repeated JoinGroup fenced itself. Started again.
    restarted: list[str] = field(default_factory=list)
    violations: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing is wrong, everything came out, and nothing ended that should not."""
        return not self.violations and self.healed_after_s is not None and not self.remarks


def one_seed(
    stack: LocalStack, network: Network, seed: int, seconds: float, transform: str, protocol: str, keep: Path | None
) -> Verdict:
    """Run it; the whole history lies in `keep` afterwards, where that is given."""
    verdict = Verdict(seed, round(seconds), protocol)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as closing:
        world = World(stack, network, Path(folder), seed=seed, transform=transform, protocol=protocol)
        closing.callback(world.close)
        # Until the last fault, and a little longer.
        world.begin(INSTANCES, ORDERS / (seconds + 10))
        world.flow()
        over = faults.seconds_left(time.monotonic() + seconds)
        members = threading.Thread(target=faults.run, args=(world, faults.MEMBERS, seed, "members", over))
        members.start()
        # Here, because a broker ends with the thread that started it.
        faults.run(world, faults.CLUSTER, seed, "cluster", over)
        members.join()
        verdict.read_during_faults = world.seen()
        try:
            verdict.healed_after_s = round(world.heal(), 1)
        except NotInTime as error:
            verdict.remarks.append(str(error))
        history = world.finish()
        _judge(verdict, world, history)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            it = {"verdict": asdict(verdict), "events": world.events, "history": history.as_json()}
            (keep / f"seed-{seed}.json").write_text(json.dumps(it))
            for log in Path(folder).glob("*.log"):
                (keep / f"seed-{seed}-{log.name}").write_text(log.read_text(errors="replace"))
    return verdict


def _judge(verdict: Verdict, world: World, history: History) -> None:
    every = check(history)
    found = [it for it in every if it.kind is not Kind.DUPLICATE_SEND]
    verdict.sent_twice = len(every) - len(found)
    outcomes = Counter(it.outcome for it in history.transactions.values() if it.asked_to_commit)
    verdict.orders = len(history.source)
    known = faults.MEMBERS | faults.CLUSTER
    named = (what.partition(" (")[0] for _, what in world.events)
    verdict.faults = dict(Counter(name for name in named if name in known))
    verdict.transactions = {
        "committed": outcomes[Outcome.OK],
        "aborted": sum(it.outcome is Outcome.FAILED for it in history.transactions.values()),
        "unknown": outcomes[Outcome.UNKNOWN],
    }
    verdict.violations = summary(found)
    verdict.examples = [f"{it.kind}: {it.what}" for it in found[:5]]
    verdict.restarted = [it for it in world.odd_exits if " ended with 4: " in it]
    verdict.remarks += [it for it in world.odd_exits if it not in verdict.restarted]
    verdict.remarks += [what for _, what in world.events if "not within" in what]


@app.command()
def main(
    seed: Annotated[
        int, typer.Option(help="The first seed: the same one gives the same faults in the same order.")
    ] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many, one after the other.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults go on, for each seed.")] = 2,
    transform: Annotated[str, typer.Option(help="module:name of a transform of yours, instead of the default.")] = "",
    protocol: Annotated[str, typer.Option(help="classic, consumer (KIP-848), or both in turn.")] = "both",
    keep: Annotated[Path | None, typer.Option(help="A folder for every history and log.")] = None,
    report: Annotated[Path | None, typer.Option(help="A file for the report, as JSON.")] = None,
) -> None:
    """Forwarders under faults on a cluster of three brokers; exit 1 when any seed is not clean.

    Each order must be given something by the transform: what gives nothing looks like a loss.
    """
    installed = class_archives.install(artifacts.default_cache(), artifacts.no_progress, _say)
    protocols = ["classic", "consumer"] if protocol == "both" else [protocol]
    verdicts = []
    for number in range(seeds):
        network = Network(seed + number)
        try:
            with ephemeral_stack(installed, brokers=3, in_front=network.in_front) as stack:
                its = protocols[number % len(protocols)]
                verdict = one_seed(stack, network, seed + number, minutes * 60, transform, its, keep)
        finally:
            network.close()
        verdicts.append(verdict)
        _say(_row(verdict))
        for each in [*verdict.examples, *verdict.remarks]:
            _say(f"    {each}")
    print(table(verdicts))
    if report is not None:
        report.write_text(json.dumps([asdict(each) for each in verdicts], indent=1) + "\n")
    sys.exit(0 if all(each.is_clean for each in verdicts) else 1)


HEAD = (
    "seed", "protocol", "orders", "sent twice", "faults", "committed", "aborted", "unknown", "restarted", "healed after",
    "violations",
)  # fmt: skip


def table(verdicts: list[Verdict]) -> str:
    """For a page."""
    lines = [" | ".join(HEAD), " | ".join("---" for _ in HEAD), *map(_row, verdicts)]
    return "\n".join(f"| {line} |" for line in lines)


def _row(it: Verdict) -> str:
    healed = "not" if it.healed_after_s is None else f"{it.healed_after_s:g} s"
    found = ", ".join(f"{kind} {count}" for kind, count in it.violations.items()) or "none"
    cells: tuple[Any, ...] = (
        it.seed, it.protocol, it.orders, it.sent_twice, sum(it.faults.values()), *it.transactions.values(),
        len(it.restarted), healed, found,
    )  # fmt: skip
    return " | ".join(map(str, cells))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
