"""Late requests, and forwarders with a mistake: the checker finds what they do, and nothing where they do it right.

On a cluster of three brokers of this file's own. The same faults by the dozen, at random: `make chaos`.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.local.artifacts import Installed
from pipeline.local.stack import LocalStack, ephemeral_stack
from tests.chaos import faults
from tests.chaos.checker import Kind, check, summary
from tests.chaos.history import History
from tests.chaos.network import ADD_PARTITIONS_TO_TXN, END_TXN, PRODUCE, TXN_OFFSET_COMMIT, Network
from tests.chaos.world import Forwarder, World, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chaos")]

RATE = 200
SHORT_SESSION = {
    "PIPELINE_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "3000",
    "PIPELINE_KAFKA__EXTRA__HEARTBEAT_INTERVAL_MS": "500",
    "PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS": "60000",
}

SHORT_TRANSACTION = {
    "PIPELINE_KAFKA__EXTRA__SOCKET_TIMEOUT_MS": "2000",
    "PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS": "2000",
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    it = Network()
    yield it
    it.close()


@pytest.fixture(scope="module")
def cluster(installed: Installed, network: Network) -> Iterator[LocalStack]:
    with ephemeral_stack(installed, brokers=3, in_front=network.in_front) as stack:
        yield stack


@pytest.fixture
def world(cluster: LocalStack, network: Network, tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**how: object) -> World:
        made.append(World(cluster, network, tmp_path, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for it in made:
        it.close()
    network.heal()


def violations(world: World) -> dict[str, int]:
    world.heal(60)
    found = summary(check(world.finish()))
    assert world.odd_exits == []
    return found


def wait_until_stopped(forwarder: Forwarder, at: str) -> None:
    wait_until(lambda: forwarder.is_stopped or forwarder.process.poll() is not None, at, 40)
    assert forwarder.process.poll() is None, forwarder.said()


def resume(forwarder: Forwarder) -> None:
    forwarder.signal(signal.SIGCONT)


def hold_until(world: World, one: Forwarder, api: int, held_at: str, released_at: str) -> None:
    """Hold the next such request from `held_at` on; the client repeats it and goes on; release it at `released_at`."""
    wait_until_stopped(one, held_at)
    held = world.network.hold(api, one.name)
    resume(one)
    assert held.caught.wait(20), one.said()
    wait_until_stopped(one, released_at)
    held.send()
    assert held.answered.wait(10)


GUARD = pytest.mark.parametrize("mutant", [pytest.param("", marks=pytest.mark.long), "without-the-guard"])


@GUARD
def test_commit_that_arrives_in_the_next_transaction(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant)
    it.begin([], RATE)
    one = it.start("a", "commit:5,written:6")
    hold_until(it, one, END_TXN, "commit of the fifth", "the sixth, published")
    one.kill()
    it.start("a")
    it.flow(100)
    found = violations(it)
    if mutant:
        assert found.keys() >= {Kind.DUPLICATE, Kind.ABORTED_READ}, found
    else:
        assert found == {}


@pytest.mark.long
@pytest.mark.parametrize("mutant", ["", "without-the-guard"])
def test_offsets_that_arrive_in_the_next_transaction(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant)
    it.begin([], RATE)
    one = it.start("a", "send-offsets:5,commit:6,committed:6")
    hold_until(it, one, TXN_OFFSET_COMMIT, "the fifth, published", "the sixth, with its offsets")
    resume(one)
    wait_until_stopped(one, "the sixth, committed")
    one.kill()
    it.start("a")
    it.flow(100)
    found = violations(it)
    if mutant:
        assert Kind.DUPLICATE in found, found
    else:
        assert found == {}


@pytest.mark.long
@GUARD
@pytest.mark.parametrize("api", [PRODUCE, ADD_PARTITIONS_TO_TXN], ids=["Produce", "AddPartitionsToTxn"])
def test_records_or_partitions_that_arrive_in_the_next_transaction_do_no_harm_with_or_without_the_guard(
    world: Callable[..., World], mutant: str, api: int
) -> None:
    it = world(mutant=mutant)
    it.begin([], RATE)
    one = it.start("a", "begin:5,written:6")
    hold_until(it, one, api, "the beginning of the fifth", "the sixth, published")
    resume(one)
    it.flow(100)
    assert violations(it) == {}


# --- mistakes: without them the same faults do no harm, which takes as long again to see


@pytest.mark.long
@pytest.mark.parametrize("mutant", ["", "offsets-before-outputs"])
def test_offsets_committed_before_the_outputs_lose_what_was_in_hand(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant)
    it.begin([], RATE)
    one = it.start("a", "between:5" if mutant else "committed:5")
    wait_until_stopped(one, "committed offsets")
    one.kill()
    it.start("a")
    it.flow(100)
    assert summary_has(violations(it), Kind.LOST_WRITE, wanted=bool(mutant))


@pytest.mark.long
@pytest.mark.parametrize("mutant", ["", "group-name-alone"])
def test_zombie_that_commits_by_the_groups_name_alone_doubles_records(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant, settings=SHORT_SESSION)
    it.begin([], RATE)
    zombie = it.start("a", "send-offsets:5")
    wait_until_stopped(zombie, "the fifth, published")
    it.start("b")
    known = len(it.history.commits)
    wait_until(lambda: _moved_on(it, known), "the other one has its partitions", 60)
    resume(zombie)
    it.flow(100)
    assert summary_has(violations(it), Kind.DUPLICATE, wanted=bool(mutant))


@pytest.mark.long
@pytest.mark.parametrize("mutant", ["", "no-rewind"])
def test_abort_without_a_rewind_loses_what_was_in_it(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant, settings=SHORT_TRANSACTION)
    it.begin([], RATE)
    one = it.start("a", "written:5")
    wait_until_stopped(one, "the fifth, published")
    assert it.has_open_transaction()
    wait_until(lambda: not it.has_open_transaction(), "its coordinator aborts it after its time-out")
    resume(one)
    it.flow(100)
    assert summary_has(violations(it), Kind.LOST_WRITE, wanted=bool(mutant))


@pytest.mark.long
@pytest.mark.parametrize("mutant", ["", "offsets-of-lost-partitions"])
def test_offsets_of_lost_partitions_take_the_group_back(world: Callable[..., World], mutant: str) -> None:
    it = world(mutant=mutant)
    it.begin(["a"], RATE)
    it.flow(50)
    second = it.start("b")
    wait_until(lambda: "assigned" in second.said(), "partitions for the second one")
    it.flow(100)
    if mutant:
        # The offsets never come to rest.
        wait_until(
            lambda: Kind.OFFSET_WENT_BACK in summary(check(History(commits=it.history.commits[:]))), "a step back"
        )
    else:
        assert violations(it) == {}


def summary_has(found: dict[str, int], kind: Kind, *, wanted: bool) -> bool:
    """The mistake is found, or nothing at all is."""
    return kind in found if wanted else found == {}


def _moved_on(world: World, known: int) -> bool:
    """Every partition's offset has moved since."""
    commits = world.history.commits
    return len(commits) > known + 1 and all(
        offset > commits[known].get(partition, 0) for partition, offset in commits[-1].items()
    )


# --- a little of everything


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_faults_by_chance_lose_double_and_reorder_nothing(world: Callable[..., World], seed: int) -> None:
    """A short run of `make chaos`: one fault of each kind that takes little time."""
    it = world(seed=seed, protocol=["classic", "consumer"][seed % 2])
    it.begin(["a", "b", "c"], RATE)
    it.flow()
    for name in ("kill", "kill at a point"):
        kinds = {name: faults.MEMBERS[name]}
        step = next(faults.schedule(kinds, seed, "members"))
        faults.MEMBERS[name].inject(it, **step.how)
        cluster = ["lose the reply to EndTxn", "network reset", "network stalled", "hold EndTxn", "foreign transaction"]
        for fault in cluster[seed % 2 :: 2]:
            step = next(faults.schedule({fault: faults.CLUSTER[fault]}, seed, "cluster"))
            faults.CLUSTER[fault].inject(it, **step.how)
    faults.CLUSTER["kill the transaction coordinator"].inject(it, role="transaction coordinator", seconds=0)
    it.flow()
    assert violations(it) == {}
