"""The faults: how each is brought about, and ended again. Each works on a `World` whose orders keep flowing.

`MEMBERS` befall forwarders and `CLUSTER` what they talk to; one of each kind goes on at a time. The names in brackets are
rows of a list that every design of such a pipeline should go through, F03 to F22.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer

from pipeline.local.process import Server
from tests.chaos.child import ID, TRANSACTION
from tests.chaos.network import END_TXN, PRODUCE, TXN_OFFSET_COMMIT, Link
from tests.chaos.world import SESSION_S, TRANSACTION_S, NotInTime, World, wait_until

POINTS = ("begin", "publish", "send-offsets", "commit", "committed")
REQUESTS = {"EndTxn": END_TXN, "TxnOffsetCommit": TXN_OFFSET_COMMIT, "Produce": PRODUCE}
ROLES = ("leader", "group coordinator", "transaction coordinator", "controller")


class Step(NamedTuple):
    """One fault of a schedule: what, and how."""

    fault: str
    how: dict[str, Any]
    rest_s: float


@dataclass(frozen=True)
class Fault:
    """`draw` chooses how it is to be; `inject` does it and returns when it is over."""

    draw: Callable[[random.Random], dict[str, Any]]
    inject: Callable[..., None]


def schedule(faults: dict[str, Fault], seed: int, track: str) -> Iterator[Step]:
    """Endless, and the same for the same seed; every fault comes once before any comes again."""
    chance = random.Random(f"{seed} {track}")
    while True:
        names = sorted(faults)
        chance.shuffle(names)
        for name in names:
            yield Step(name, faults[name].draw(chance), round(chance.uniform(0.5, 3), 2))


# --- forwarders


def kill(world: World) -> None:
    """[F03] kill -9 whenever, and the same name again."""
    with world.one() as it:
        it.kill()
        world.start(it.name)


def kill_at(world: World, point: str, times: int, *, new_name: bool = False) -> None:
    """[F03, F04] kill -9 at one point of its loop; started again under its name, or under a new one."""
    with world.one() as it:
        it.kill()
        stopped = world.start(it.name, f"{point}:{times}")
        with suppress(NotInTime):  # one without a partition comes to no such point
            wait_until(lambda: stopped.is_stopped, f"{it.name} at {point}", 20)
        stopped.kill()
        if new_name:
            del world.forwarders[it.name]
            world.start(f"{it.name.partition('-')[0]}-{world.random.getrandbits(24):06x}")
        else:
            world.start(it.name)


def pause(world: World, seconds: float) -> None:
    """[F05, F07] SIGSTOP for so long: past its transaction's time-out, or its session too; then it goes on as a zombie."""
    with world.one() as it:
        it.signal(signal.SIGSTOP)
        world.healing.wait(seconds)
        it.signal(signal.SIGCONT)


def storm(world: World, rounds: int) -> None:
    """[F14] Members join and leave, one after the other, in the middle of transactions."""
    for number in range(rounds):
        name = f"guest{number}-{world.random.getrandbits(24):06x}"
        guest = world.start(name)
        with guest.busy:
            world.healing.wait(3)
            guest.signal(signal.SIGTERM)
            guest.process.wait(60)
            del world.forwarders[name]


def twin(world: World) -> None:
    """[F16, F17] Two processes of one name: one of them ends with exit 4, the other one goes on."""
    with world.one() as first:
        second = world.start(first.name)
        both = [first, second]
        wait_until(lambda: any(each.process.poll() is not None for each in both), "one of two twins gone", 100)
        ended = next(each for each in both if each.process.poll() is not None)
        world.forwarders[first.name] = both[1 - both.index(ended)]
        if ended.process.returncode != 4:
            last = (ended.said().strip().splitlines() or [""])[-1][:300]
            world.odd_exits.append(f"the twin of {first.name} ended with {ended.process.returncode}: {last}")


# --- what they talk to


def _broker(world: World, role: str) -> Server | None:
    name = world.random.choice(sorted(world.forwarders))
    if role == "leader":
        return world.leader(world.output, world.random.randrange(6))
    if role == "group coordinator":
        return world.coordinator("__consumer_offsets", world.group)
    if role == "transaction coordinator":
        return world.coordinator("__transaction_state", world.transactional_id(name))
    return world.controller()


@contextmanager
def _gone(world: World, broker: Server | None, seconds: float) -> Iterator[None]:
    if broker is not None:
        broker.kill()
    try:
        yield
        world.healing.wait(seconds)
    finally:
        world.wait_until_whole()


def kill_broker(world: World, role: str, seconds: float) -> None:
    """[F10] kill -9 of a broker by what it does, and its start after a while."""
    with _gone(world, _broker(world, role), seconds):
        pass


def kill_coordinator_between(world: World, point: str, times: int) -> None:
    """[F13] The transaction's coordinator is killed while a forwarder stands between begin and commit."""
    with world.one() as it:
        it.kill()
        stopped = world.start(it.name, f"{point}:{times}")
        with suppress(NotInTime):
            wait_until(lambda: stopped.is_stopped, f"{it.name} at {point}", 20)
        with _gone(world, world.coordinator("__transaction_state", world.transactional_id(it.name)), 2):
            stopped.signal(signal.SIGCONT)


def roll(world: World) -> None:
    """[F11] Every broker is restarted in turn, in an orderly way."""
    for broker in world.stack.brokers:
        if world.healing.is_set():
            return
        broker.stop(30)
        world.wait_until_whole()


def network(world: World, how: str, seconds: float, links: int) -> None:
    """[F18] The way to some brokers is slow, stalled, half-open, or cut at random; or every connection is reset once."""
    chosen = world.random.sample(world.network.links, links)
    for link in chosen:
        _spoil(world, link, how)
    world.healing.wait(seconds)
    for link in chosen:
        link.delay_s, link.stalled, link.mute, link.cut_chance = 0, False, False, 0


def _spoil(world: World, link: Link, how: str) -> None:
    if how == "slow":
        link.delay_s = 2
    elif how == "stalled":
        link.stalled = True
    elif how == "half-open":
        link.mute = True
    elif how == "cut at random":
        link.cut_chance = 0.01
    else:
        world.network.cut(link)


def drop_reply(world: World) -> None:
    """[F19] A commit is done, and its answer lost."""
    with world.one() as it:
        world.network.drops.append((END_TXN, it.name))
        with suppress(NotInTime):
            wait_until(lambda: (END_TXN, it.name) not in world.network.drops or world.healing.is_set(), "a commit", 10)


def hold(world: World, request: str, seconds: float, *, cut: bool) -> None:
    """[F20] A request is held back while the client repeats it, and arrives in a transaction to come."""
    with world.one() as it:
        held = world.network.hold(REQUESTS[request], it.name, cut=cut)
        held.caught.wait(10)
        world.healing.wait(seconds)
        held.send()
        world.network.holds.remove(held)


def registry_down(world: World, seconds: float) -> None:
    """[F22] The schema registry is killed, and started again after a while."""
    world.stack.registry.kill()
    world.healing.wait(seconds)
    world.stack.registry.start()
    world.stack.registry.wait_until_ready()


def foreign_transaction(world: World, seconds: float) -> None:
    """[F21] Somebody else's transaction stays open on the output and is never ended: readers wait, then it is aborted."""
    name = f"foreign-{world.random.getrandbits(24):06x}"
    producer = Producer(
        world.properties | {"transactional.id": name, "transaction.timeout.ms": int(seconds * 1000), "log_level": 0}
        | {"message.timeout.ms": int(seconds * 1000)}
    )  # fmt: skip
    with suppress(KafkaException):
        producer.init_transactions(20)
        producer.begin_transaction()
        producer.produce(world.output, b"", "foreign", headers={ID: name, TRANSACTION: name})
        producer.flush(5)
    world.healing.wait(seconds)


def _at(chance: random.Random) -> dict[str, Any]:
    point = chance.choice(POINTS)
    return {"point": point, "times": chance.randint(1, 100 if point == "publish" else 15)}


MEMBERS = {
    "kill": Fault(lambda _: {}, kill),
    "kill at a point": Fault(_at, kill_at),
    "kill, new name": Fault(lambda chance: _at(chance) | {"new_name": True}, kill_at),
    "stop past the transaction": Fault(lambda _: {"seconds": (SESSION_S + TRANSACTION_S) / 2 - 0.5}, pause),
    "stop past the session": Fault(lambda _: {"seconds": SESSION_S + 3}, pause),
    "join and leave": Fault(lambda chance: {"rounds": chance.randint(1, 3)}, storm),
    "twin": Fault(lambda _: {}, twin),
}
CLUSTER = {
    **{
        f"kill the {role}": Fault(
            lambda chance, role=role: {"role": role, "seconds": chance.choice([0, 1, 5])}, kill_broker
        )
        for role in ROLES
    },
    "kill the coordinator between begin and commit": Fault(
        lambda chance: {"point": chance.choice(["publish", "send-offsets", "commit"]), "times": chance.randint(1, 9)},
        kill_coordinator_between,
    ),
    "restart every broker": Fault(lambda _: {}, roll),
    **{
        f"network {how}": Fault(
            lambda chance, how=how: {"how": how, "seconds": chance.choice([2, 4, 6]), "links": chance.randint(1, 3)},
            network,
        )
        for how in ("slow", "stalled", "half-open", "cut at random", "reset")
    },
    "lose the reply to EndTxn": Fault(lambda _: {}, drop_reply),
    **{
        f"hold {request}": Fault(
            lambda chance, request=request: {
                "request": request, "seconds": round(chance.uniform(0.05, 2), 2), "cut": chance.random() < 0.7,
            },
            hold,
        )
        for request in REQUESTS
    },
    "kill the registry": Fault(lambda chance: {"seconds": chance.choice([1, 5])}, registry_down),
    "foreign transaction": Fault(lambda chance: {"seconds": chance.choice([2, 5])}, foreign_transaction),
}  # fmt: skip


def run(world: World, faults: dict[str, Fault], seed: int, track: str, until: Callable[[], bool]) -> int:
    """Inject one after the other until it is time to heal; how many. One that could not be brought about is told."""
    count = 0
    for step in schedule(faults, seed, track):
        if until():
            break
        world.revive()
        shown = ", ".join(f"{name}={value}" for name, value in step.how.items())
        world.tell(f"{step.fault} ({shown})" if shown else step.fault)
        try:
            faults[step.fault].inject(world, **step.how)
            count += 1
        except NotInTime as error:
            world.tell(f"{step.fault}: {error}")
        world.healing.wait(step.rest_s)
    return count


def seconds_left(deadline: float) -> Callable[[], bool]:
    """Whether that moment, of `time.monotonic()`, has come."""
    return lambda: time.monotonic() >= deadline
