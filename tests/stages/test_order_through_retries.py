"""Two workers of one group under any order of events: nothing is lost, keys keep their order, each record ends once.

A model-checked twin of the rule alone is in tests/unit/core/test_fence.py; here it is the whole worker, with zombies: one
that lost its partitions works on until it hears of it.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.core.dead_letter import Worker
from pipeline.core.offsets import read_note
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import BrokerUnavailable, Reject, Retry, SinkUnavailable
from pipeline.stages.consume import Consume
from pipeline.stages.handlers import adapt
from pipeline.stages.outbox import Outbox
from tests.stages.broker import BrokerPublisher, FakeBroker, Member, RandomCrew
from tests.stages.fakes import FakeClock
from tests.stages.test_consume import Decoder

TOPICS = ("orders.v1", "retry-4s", "retry-12s")
PARTITIONS = 2
# Four tries for each record, so that three failures make no letter, however often a death forgets some of them.
POLICY = RetryPolicy(attempts=2, backoff_s=1.5, backoff_max_s=2.0, tiers=(4.0, 12.0))
ALWAYS = 1_000


@dataclass
class Process:
    """A living worker; `shards` are the partition numbers that the group gave it."""

    stage: Consume
    member: Member
    publisher: BrokerPublisher


class Group(RuleBasedStateMachine):
    """Records whose handler fails some times, always, or asks for a later try; workers that die, stop, lose and get back."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = FakeBroker()
        self.clock = FakeClock()
        self.random = Random(0)  # no secret
        self.processes: dict[int, Process] = {}
        self.started = 0
        self.owners: dict[int, int] = {}
        self.plans: dict[str, tuple[int, str]] = {}
        self.keys: dict[str, bytes | None] = {}
        self.effects: list[str] = []
        self.sink_down = False
        self.acknowledgements = "all"
        self.doubled = False

    @initialize(seed=st.integers(0, 2**16), hands=st.sampled_from((1, 1, 3)), list_max=st.sampled_from((1, 4)))
    def begin(self, seed: int, hands: int, list_max: int) -> None:
        self.random.seed(seed)
        self.hands, self.list_max = hands, list_max
        self._start(0)
        self._start(1)
        for partition in range(PARTITIONS):
            self._give(partition, partition)

    # --- what happens

    @rule(
        partition=st.sampled_from((0, 0, 0, 1)),
        records=st.lists(
            st.tuples(
                st.sampled_from("aaaaab-"),
                st.sampled_from((0, 0, 0, 0, 2, 2, 3, 1, ALWAYS)),
                st.sampled_from(("fails", "fails", "fails", "later", "rejects", "bad")),
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def written(self, partition: int, records: list[tuple[str, int, str]]) -> None:
        """A key is one partition's; `-` is none."""
        for key, failures, how in records:
            where = TopicPartition(TOPICS[0], partition)
            name = f"{'bad' if how == 'bad' else ''}{key}{partition}.{len(self.plans)}"
            self.plans[name] = (failures, how)
            self.keys[name] = None if key == "-" else f"{key}{partition}".encode()
            self.broker.write(where, self.keys[name], name.encode())

    @rule(turns=st.lists(st.tuples(st.integers(0, 1), st.sampled_from((1, 5, 10))), min_size=1, max_size=4))
    def work(self, turns: list[tuple[int, int]]) -> None:
        for which, count in turns:
            for _ in range(count):
                self.processes[which].stage._turn()
                self.clock.now += 0.1

    @rule(
        which=st.integers(0, 1),
        partition=st.sampled_from((0, 0, 1)),
        what=st.sampled_from(("dies", "dies", "stops", "is asked to give it up", "loses it")),
    )
    def disturb(self, which: int, partition: int, what: str) -> None:
        """A worker ends and another one is started in its place, or a partition goes to the one named."""
        if what in {"dies", "stops"}:
            process = self.processes.pop(which)
            if what == "stops":
                process.stage.run(lambda: True)
            self.doubled = self.doubled or what == "dies"
            self.broker.bury(process.member)
            self._start(which)
            for each, owner in self.owners.items():
                if owner == which:
                    self._give(each, self.random.randrange(2))
            return
        whole = [TopicPartition(topic, partition) for topic in TOPICS]
        if what == "loses it":
            self.doubled = True
            self.broker.lose(*whole)
        else:
            self.broker.take(*whole)
            self.processes[self.owners[partition]].stage._turn()
        self._give(partition, which)

    @rule(what=st.sampled_from(("well", "well", "sink", "acknowledgements", "some acknowledgements", "commits")))
    def environment(self, what: str) -> None:
        self.sink_down = what == "sink"
        self.acknowledgements = {"acknowledgements": "none", "some acknowledgements": "some"}.get(what, "all")
        if what == "commits":
            for process in self.processes.values():
                process.member.commit_errors.extend([BrokerUnavailable("loading.")] * 2)

    # --- what holds

    @invariant()
    def first_effects_of_a_key_are_in_the_order_of_the_source(self) -> None:
        letters = self._letters()
        for key in set(self.keys.values()) - {None}:
            first = [name for name in dict.fromkeys(self.effects) if self.keys[name] == key and name not in letters]
            numbers = [int(name.rpartition(".")[2]) for name in first]
            assert numbers == sorted(numbers)

    @invariant()
    def what_is_committed_has_ended_or_lies_in_a_later_tier(self) -> None:
        ended = {*self.effects, *self._letters()}
        for tier, topic in enumerate(TOPICS):
            later = {_name(record) for each in TOPICS[tier + 1 :] for record in self._log(each)}
            for record in self._log(topic):
                commit = self.broker.commits.get(record.source)
                if commit is None:
                    continue
                done = read_note(commit.metadata, commit.offset).done
                if record.offset < commit.offset or any(first <= record.offset < last for first, last in done):
                    assert _name(record) in ended | later

    @invariant()
    def outages_and_deaths_write_no_letter(self) -> None:
        for envelope in self.broker.letters():
            name = envelope["value"].decode()
            _, how = self.plans[name]
            assert envelope["reason"] == {"bad": "undecodable", "rejects": "rejected"}.get(how, "retries_exhausted")
            assert (envelope["source_topic"], envelope["headers"]) == (TOPICS[0], [])
            assert self._always_fails(name)

    def teardown(self) -> None:
        """When all is well again everything comes to its one end."""
        if not self.processes:
            return
        self.sink_down, self.acknowledgements = False, "all"
        for process in self.processes.values():
            process.member.commit_errors.clear()
        for _ in range(3_000):
            if self._all_done():
                break
            for process in self.processes.values():
                process.stage._turn()
        letters = self._letters()
        assert self._all_done()
        assert {*self.effects, *letters} == set(self.plans), "nothing is lost"
        assert set(letters) == {name for name in self.plans if self._always_fails(name)}
        assert not set(self.effects) & set(letters), "one end each"
        if not self.doubled:
            assert len(letters) == len(set(letters))
            twice = [name for name, times in Counter(self.effects).items() if times > 1]
            assert not twice, "without a death nothing is done twice"
        self.first_effects_of_a_key_are_in_the_order_of_the_source()
        self.outages_and_deaths_write_no_letter()

    # --- how

    def _handle(self, event: dict, record: Record) -> None:
        name = event["id"]
        if self.sink_down:
            raise SinkUnavailable("down.")
        failures, how = self.plans[name]
        if failures:
            if how == "rejects":
                raise Reject("no")
            if failures < ALWAYS:
                self.plans[name] = (failures - 1, how)
            if how == "later":
                raise Retry("closed", after=5.0)
            raise OSError("no")
        self.effects.append(name)

    def _start(self, which: int) -> None:
        handler = adapt(self._handle, "test")
        publisher = BrokerPublisher(self.broker)
        publisher.fails = lambda topic: {"all": None, "none": "lost"}.get(self.acknowledgements, self._some())
        self.started += 1
        parts: dict[str, Any] = {
            "source": lambda listener: Member(self.broker, listener),
            "log": self.broker,
            "topics": TOPICS,
            "decoder": Decoder(),
            "handler": handler,
            "crew": RandomCrew(handler, self.hands, self.list_max, self.random),
            "outbox": Outbox(publisher, "orders.dlq.v1", self.broker, self.clock),
            "worker": Worker("g", f"{which}"),
            "policy": POLICY,
            "clock": self.clock,
            "now_ms": lambda: 1_700_000_000_000 + int(self.clock.now * 1000),
            "jitter": self.random.random,
            # Deaths here are nobody's fault: which record is named is tested elsewhere.
            "crash_limit": ALWAYS,
        }
        stage = Consume(**parts)
        member: Any = stage._source
        self.processes[which] = Process(stage, member, publisher)

    def _some(self) -> str | None:
        fate = self.random.choice((None, None, "lost", "unknown"))
        if fate == "unknown":
            self.doubled = True
        return fate

    def _give(self, partition: int, to: int) -> None:
        member = self.processes[to].member
        self.broker.give(member, *(TopicPartition(topic, partition) for topic in TOPICS))
        self.owners[partition] = to

    def _log(self, topic: str) -> list[Record]:
        return [r for n in range(PARTITIONS) for r in self.broker.logs.get(TopicPartition(topic, n), [])]

    def _letters(self) -> list[str]:
        return [envelope["value"].decode() for envelope in self.broker.letters()]

    def _always_fails(self, name: str) -> bool:
        failures, how = self.plans[name]
        return how == "bad" or (failures > 0 and how == "rejects") or failures == ALWAYS

    def _all_done(self) -> bool:
        for topic in TOPICS:
            for partition in range(PARTITIONS):
                where = TopicPartition(topic, partition)
                commit = self.broker.commits.get(where)
                if (commit.offset if commit else 0) < len(self.broker.logs.get(where, [])):
                    return False
        return not any(process.stage._busy for process in self.processes.values())


def _name(record: Record) -> str:
    return (record.value or b"").decode()


Group.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestGroup = Group.TestCase
