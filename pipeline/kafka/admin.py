"""What the cluster says of itself: reachable or not, topics, partitions, offsets of groups; and topics made there.

Every method raises what `pipeline.kafka.errors.translate` makes of the client's error.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Node,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported there without a word that it is
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ConsumerGroupDescription,
    MemberDescription,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from pipeline.core.group_plan import NOT_AUTHORISED, UNREADABLE, Group, Member, Where
from pipeline.core.log_position import Bounds, start
from pipeline.core.ports import Commit
from pipeline.core.record import Record
from pipeline.core.record import TopicPartition as Source
from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Grow, Partition, Topic
from pipeline.errors import BrokerUnavailable, PipelineError, Refused, TopicRefused
from pipeline.kafka import peek
from pipeline.kafka.errors import DENIED, OUTAGE, TOPIC_ABSENT, UNAUTHENTICATED, other_protocol, translate
from pipeline.kafka.log import librdkafka_logger

REQUEST_S = 10.0
_ASK_AGAIN_S = 0.2
_QUIET = {"log_level": 2}  # errors reach the caller; their log lines, 40 a second in an outage, only repeat them
_LIMIT = {"request_timeout": REQUEST_S}
_GROUP_ABSENT = frozenset({"GROUP_ID_NOT_FOUND"})
# What a commit from outside is answered with while the group has members.
_HAS_MEMBERS = frozenset(
    {"FENCED_MEMBER_EPOCH", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "STALE_MEMBER_EPOCH", "UNKNOWN_MEMBER_ID"}
)
_SET_ON_TOPIC = ConfigSource.DYNAMIC_TOPIC_CONFIG
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Cluster:
    """One cluster, asked through the client's `AdminClient`, which never makes a topic by asking for it.

    `properties` are librdkafka's (see `pipeline.kafka.config`); a request may take `REQUEST_S` seconds. Without `reads_configs`
    topics are described without theirs, for which a plain consumer has no ACL as a rule.
    """

    def __init__(self, properties: Mapping[str, Any], *, reads_configs: bool = True) -> None:
        self._properties = dict(properties)
        self._reads_configs = reads_configs
        self.where = str(properties["bootstrap.servers"])
        self._errors: deque[KafkaError] = deque(maxlen=1)
        configuration: dict[str, Any] = {**_QUIET, **properties, "error_cb": _keeper(self._errors)}
        self._admin = AdminClient(configuration, logger=librdkafka_logger())

    def wait_until_reachable(self, timeout_s: float) -> None:
        """Return once a broker answered a metadata request; raise `BrokerUnavailable` after `timeout_s` seconds.

        Refused credentials raise `SettingsRefused` at once: waiting does not mend them.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._admin.list_topics(timeout=max(0.1, min(1.0, deadline - time.monotonic())))
            except KafkaException as error:
                self._admin.poll(0)
                cause = self._errors[-1] if self._errors else None
                if cause is not None and cause.name() in UNAUTHENTICATED:
                    raise translate(cause, f"connecting to {self.where}") from error
                if time.monotonic() >= deadline:
                    raise BrokerUnavailable(
                        f"No Kafka broker answers at {self.where} within {timeout_s:g} s"
                        f"{f' ({other_protocol(cause.str()) or cause.str()})' if cause else ''}. "
                        "Is it running (make up)? Do PIPELINE_KAFKA__BOOTSTRAP_SERVERS and the security protocol fit?"
                    ) from error
            else:
                return

    def describe_topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """The topics of these names that are there, with their partitions and configs."""
        if not names:
            return {}
        described = {}
        for name, future in self._ask(lambda: self._admin.describe_topics(TopicCollection(list(names)), **_LIMIT)):
            doing = f"describing topic {name}"
            description = self._result(future, doing, without=TOPIC_ABSENT, needs=f"DESCRIBE on Topic {name}")
            if description is not None:
                described[name] = description
        configs = self._topic_configs(described) if self._reads_configs else {name: {} for name in described}
        # A topic deleted between the two questions is absent.
        return {name: _facts(described[name], entries) for name, entries in configs.items()}

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Every config in force, by topic; absent topics are left out."""
        return {
            name: {key: str(entry.value) for key, entry in entries.items()}
            for name, entries in self._topic_configs(names).items()
        }

    def create(self, topics: Sequence[Declared], *, validate_only: bool = False) -> list[str]:
        """Create these topics and return the names of those that this call created; one that is there stays as it is.

        With `validate_only` the broker only checks. What it refuses raises `TopicRefused` with its reason, after all
        others were dealt with.
        """
        if not topics:
            return []
        new = [
            NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.configs)) for topic in topics
        ]
        created: list[str] = []
        refused: list[tuple[str, KafkaException]] = []
        for name, future in self._ask(lambda: self._admin.create_topics(new, validate_only=validate_only, **_LIMIT)):
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                if _name_of(error) != "TOPIC_ALREADY_EXISTS":
                    refused.append((name, error))
        for name, cause in refused:
            done = [] if validate_only else created
            raise self._refused(cause, f"creating topic {name}", done, f"CREATE on Topic {name}") from cause
        return created

    def grow(self, topic: Grow, *, validate_only: bool = False) -> bool:
        """Give the topic `wanted` partitions in all; False when it has as many already."""
        new = [NewPartitions(topic.name, topic.wanted)]
        [(_, future)] = self._ask(lambda: self._admin.create_partitions(new, validate_only=validate_only, **_LIMIT))
        try:
            future.result()
        except KafkaException as error:
            there = self.partitions(topic.name) if _name_of(error) == "INVALID_PARTITIONS" else None
            if there is not None and there >= topic.wanted:
                return False
            doing = f"growing topic {topic.name} to {topic.wanted} partitions"
            raise self._refused(error, doing, needs=f"ALTER on Topic {topic.name}") from error
        return True

    def alter(self, topic: str, configs: Mapping[str, str]) -> None:
        """Set these configs of the topic, and leave its others; raises `TopicRefused` with the broker's reason."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        [(_, future)] = self._ask(lambda: self._admin.incremental_alter_configs([resource], **_LIMIT))
        try:
            future.result()
        except KafkaException as error:
            raise self._refused(error, f"setting {', '.join(configs)} of topic {topic}") from error

    def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has; None when it is not there."""
        [(_, future)] = self._ask(lambda: self._admin.describe_topics(TopicCollection([topic]), **_LIMIT))
        doing = f"describing topic {topic}"
        description = self._result(future, doing, without=TOPIC_ABSENT, needs=f"DESCRIBE on Topic {topic}")
        return None if description is None else len(description.partitions)

    def topic_ids(self, names: Sequence[str]) -> dict[str, str]:
        """Kafka's own id of each topic, another one each time a topic is made (KIP-516); absent topics are left out."""
        asking = self.ask_topic_ids(names)
        return {
            name: str(description.topic_id)
            for name, future in asking.answers
            if (description := self._result(future, f"describing topic {name}", without=TOPIC_ABSENT)) is not None
        }

    def ask_topic_ids(self, names: Sequence[str]) -> "TopicIds":
        """The same without waiting for it."""
        asked = TopicCollection(list(names))
        return TopicIds(self._admin, self._ask(lambda: self._admin.describe_topics(asked, **_LIMIT)))

    def beginning_offsets(self, topic: str) -> dict[int, int]:
        """By partition, the offset of the oldest record; raises `TopicRefused` when the topic is not there."""
        return self._offsets(topic, _EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """By partition, the offset after the last record that a `read_committed` reader may see.

        Open transactions hold it back; raises `TopicRefused` when the topic is not there.
        """
        return self._offsets(topic, _LATEST)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the offset that the group committed; partitions without one are left out."""
        wanted = [Source(topic, partition) for partition in range(self.partitions(topic) or 0)]
        return {source.partition: offset for source, offset in self.committed_of(group, wanted).items()}

    def committed_of(self, group: str, wanted: Collection[Source]) -> dict[Source, int]:
        """The offsets that the group committed in these partitions; those without one are left out."""
        return {source: commit.offset for source, commit in self.commits_of(group, wanted).items()}

    def commits_of(self, group: str, wanted: Collection[Source]) -> dict[Source, Commit]:
        """The same, with the words that were committed beside them."""
        if not wanted:
            return {}
        # Not AdminClient.list_consumer_group_offsets: it crashes the process when the coordinator moves or is not there
        # yet, as on a fresh cluster (librdkafka issue 5040).
        consumer = self._outside(group)
        deadline = time.monotonic() + REQUEST_S
        try:
            while True:
                try:
                    answer = self._committed(consumer, wanted, f"reading the committed offsets of {group}")
                    break
                except BrokerUnavailable:
                    # A fresh cluster's coordinator is still loading, or moves: the client does not ask again by itself.
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(_ASK_AGAIN_S)
        finally:
            consumer.close()
        return {
            Source(each.topic, each.partition): Commit(each.offset, each.metadata or "")
            for each in answer
            if each.offset >= 0
        }

    def _committed(self, consumer: Consumer, wanted: Collection[Source], doing: str) -> list[TopicPartition]:
        try:
            answer = consumer.committed([TopicPartition(*source) for source in wanted], timeout=REQUEST_S)
        except KafkaException as error:
            raise self._translated(error.args[0], doing, "DESCRIBE on that Group and its Topics") from error
        for partition in answer:
            if partition.error is not None:
                raise self._translated(partition.error, doing, f"DESCRIBE on Topic {partition.topic}")
        return answer

    def commit(self, group: str, offsets: Mapping[Source, int]) -> None:
        """Commit these offsets for a group without members; raises `Refused` when it has one, says the broker."""
        consumer = self._outside(group)
        try:
            answer = consumer.commit(
                offsets=[TopicPartition(*source, offset) for source, offset in offsets.items()], asynchronous=False
            )
            problem = next((each.error for each in answer or () if each.error is not None), None)
        except KafkaException as error:
            problem = error.args[0]
        finally:
            consumer.close()
        if problem is not None and problem.name() in _HAS_MEMBERS:
            raise Refused(f"The group {group} has members by now: its offsets are theirs, nothing was committed")
        if problem is not None:
            raise self._translated(
                problem, f"committing offsets of {group}", f"READ on Group {group} and on its Topics"
            )

    def groups(self) -> list[Group]:
        """Every consumer group with its members, by name; one that cannot be described has a state that says so."""
        doing = "listing the consumer groups"
        try:
            answer = self._admin.list_consumer_groups(**_LIMIT).result()
        except KafkaException as error:
            raise translate(error.args[0], f"{doing} at {self.where}") from error
        for problem in answer.errors or ():
            raise translate(problem.args[0], f"{doing} at {self.where}") from problem
        return self._describe_each(sorted(each.group_id for each in answer.valid or ()))

    def group(self, name: str) -> Group | None:
        """The group of this name; None when it is not there."""
        return next(iter(self._describe_groups([name])), None)

    def everywhere(self) -> list[Source]:
        """Every partition of every topic."""
        try:
            topics = self._admin.list_topics(timeout=REQUEST_S).topics
        except KafkaException as error:
            raise self._translated(
                error.args[0], f"listing the topics at {self.where}", "DESCRIBE on Cluster"
            ) from error
        return [Source(name, partition) for name, topic in sorted(topics.items()) for partition in topic.partitions]

    def offsets_at(self, sources: Collection[Source], at: Where | int) -> dict[Source, int]:
        """By partition, the first offset, the `read_committed` end, or the first record at or after a time in ms.

        -1 where no record is that late. Topics that are not there are left out.
        """
        if not sources:
            return {}
        spec = {"earliest": _EARLIEST, "latest": _LATEST}[at] if isinstance(at, str) else OffsetSpec.for_timestamp(at)
        asked = {TopicPartition(*source): spec for source in sources}
        level = IsolationLevel.READ_COMMITTED
        offsets = {}
        for place, future in self._ask(
            lambda: self._admin.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_S)
        ):
            doing = f"reading the offsets of {place.topic}"
            answer = self._result(future, doing, without=TOPIC_ABSENT, needs=f"DESCRIBE on Topic {place.topic}")
            if answer is not None:
                offsets[Source(place.topic, place.partition)] = int(answer.offset)
        return offsets

    def high_watermarks(self, sources: Collection[Source]) -> dict[Source, int]:
        """By partition, the end of all that was written, of open transactions too."""
        if not sources:
            return {}
        asked = {TopicPartition(*source): _LATEST for source in sources}
        level = IsolationLevel.READ_UNCOMMITTED
        answers = self._ask(lambda: self._admin.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_S))
        return {
            Source(place.topic, place.partition): int(self._result(future, f"reading the end of {place.topic}").offset)
            for place, future in answers
        }

    def delete_records(self, up_to: Mapping[Source, int]) -> dict[Source, int]:
        """Delete every record below these offsets, for good; return where each partition begins now.

        When a partition fails, the others are dealt with first: what it raises names those that are done. Done again it
        does no harm.
        """
        if not up_to:
            return {}
        # The client takes a negative offset for the end.
        assert min(up_to.values()) >= 0
        asked = [TopicPartition(*source, offset) for source, offset in up_to.items()]
        begins: dict[Source, int] = {}
        failed: list[tuple[Source, KafkaException]] = []
        limits = {**_LIMIT, "operation_timeout": REQUEST_S}
        for place, future in self._ask(lambda: self._admin.delete_records(asked, **limits)):
            source = Source(place.topic, place.partition)
            try:
                begins[source] = int(future.result().low_watermark)
            except KafkaException as error:
                failed.append((source, error))
        for source, cause in failed:
            problem = translate(
                cause.args[0], f"deleting records of {source.topic} [{source.partition}] at {self.where}"
            )
            if begins:
                done = ", ".join(f"[{each.partition}] up to {up_to[each]}" for each in sorted(begins))
                raise PipelineError(f"{problem}. Deleted already: {done}") from cause
            raise problem from cause
        return begins

    def oldest_left(self, positions: Mapping[Source, int]) -> dict[Source, Record | None]:
        """See `pipeline.kafka.peek.oldest_left`."""
        return peek.oldest_left({**_QUIET, **self._properties}, positions)

    def lag(self, group: str, topic: str) -> dict[int, int]:
        """By partition, how many offsets the group has still to go from where a worker of it would begin."""
        beginning, end = self.beginning_offsets(topic), self.end_offsets(topic)
        sources = [Source(topic, partition) for partition in end]
        # After the ends: what was committed since is not beyond them.
        committed, written = self.commits_of(group, sources), self.high_watermarks(sources)
        topic_id = self.topic_ids([topic]).get(topic, "")
        lag = {}
        for source in sources:
            offset, words = committed.get(source, (None, ""))
            bounds = Bounds(beginning[source.partition], written[source], topic_id)
            lag[source.partition] = max(0, end[source.partition] - start(source, offset, words, bounds).offset)
        return lag

    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        count = self.partitions(topic)
        if count is None:
            raise TopicRefused(f"Topic {topic} is not there at {self.where}. make topics creates the declared ones")
        asked = {TopicPartition(topic, partition): spec for partition in range(count)}
        level = IsolationLevel.READ_COMMITTED
        answers = self._ask(lambda: self._admin.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_S))
        doing = f"reading the offsets of {topic}"
        return {partition.partition: self._result(future, doing).offset for partition, future in answers}

    def _outside(self, group: str) -> Consumer:
        """A consumer that asks and commits in the name of a group, and joins none: it subscribes to nothing."""
        ours = {
            "group.id": group,
            "enable.auto.commit": False,
            # read_committed would wait for the transactions that are about to commit offsets.
            "isolation.level": "read_uncommitted",
        }
        return Consumer({**_QUIET, **self._properties, **ours}, logger=librdkafka_logger())

    def _describe_groups(self, names: Sequence[str]) -> list[Group]:
        if not names:
            return []
        described = []
        for name, future in self._ask(lambda: self._admin.describe_consumer_groups(list(names), **_LIMIT)):
            doing = f"describing group {name}"
            group = self._result(future, doing, without=_GROUP_ABSENT, needs=f"DESCRIBE on Group {name}")
            # A group that nobody knows is described as dead.
            if group is not None and group.state is not ConsumerGroupState.DEAD:
                described.append(_group(group))
        return described

    def _describe_each(self, names: Sequence[str]) -> list[Group]:
        """Those that can be described, and of the others the name and why not; an outage is raised."""
        if not names:
            return []
        described = []
        for name, future in self._ask(lambda: self._admin.describe_consumer_groups(list(names), **_LIMIT)):
            try:
                group = future.result()
            except KafkaException as error:
                code = _name_of(error)
                if code in _GROUP_ABSENT:
                    continue
                if code in OUTAGE | UNAUTHENTICATED:
                    raise translate(error.args[0], f"describing group {name} at {self.where}") from error
                # One answer that cannot be read, as of another kind of group, fails all that were asked for with it.
                again = code not in DENIED and len(names) > 1
                alone = Group(name, NOT_AUTHORISED if code in DENIED else UNREADABLE, "-")
                described += self._describe_each([name]) if again else [alone]
            except ValueError:  # a state or a kind that this client does not know yet
                described.append(Group(name, UNREADABLE, "-"))
            else:
                if group.state is not ConsumerGroupState.DEAD:
                    described.append(_group(group))
        return described

    def _topic_configs(self, names: Iterable[str]) -> dict[str, dict[str, ConfigEntry]]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}
        configs = {}
        for resource, future in self._ask(lambda: self._admin.describe_configs(resources, **_LIMIT)):
            doing = f"reading the configs of topic {resource.name}"
            needs = f"DESCRIBE_CONFIGS on Topic {resource.name}"
            entries = self._result(future, doing, without=TOPIC_ABSENT, needs=needs)
            if entries is not None:
                configs[resource.name] = entries
        return configs

    def _ask(self, request: Callable[[], Mapping[Any, Future[Any]]]) -> list[tuple[Any, Future[Any]]]:
        answers = list(request().items())
        self._admin.poll(0)  # hands over the log lines and errors that gathered
        return answers

    def _result(
        self, future: Future[Any], doing: str, without: frozenset[str] = frozenset(), needs: str | None = None
    ) -> Any:
        try:
            return future.result()
        except KafkaException as error:
            if _name_of(error) in without:
                return None
            raise self._translated(error.args[0], f"{doing} at {self.where}", needs) from error

    def _translated(self, error: KafkaError, doing: str, needs: str | None) -> PipelineError:
        return translate(error, doing, needs=needs, principal=self._properties.get("sasl.username"))

    def _refused(
        self, error: KafkaException, doing: str, done: Sequence[str] = (), needs: str | None = None
    ) -> PipelineError:
        problem = self._translated(error.args[0], f"{doing} at {self.where}", needs)
        if done:
            return PipelineError(f"{problem}. Created before that, and left there: {', '.join(done)}")
        if type(problem) is PipelineError:
            said = error.args[0].str().rstrip(".")
            return TopicRefused(f"{doing} at {self.where}: the broker refuses it: {said}. {_way_out(error)}")
        return problem


def _keeper(errors: deque[KafkaError]) -> Callable[[KafkaError], None]:
    """What keeps the client's errors: a function without the cluster in it, which would hold the client for ever."""

    def keep(error: KafkaError) -> None:
        if error.name() != "_ALL_BROKERS_DOWN":  # says nothing that the error before it does not
            errors.append(error)

    return keep


@dataclass(frozen=True)
class TopicIds:
    """A question for ids of topics under way; `client` lives as long as it."""

    client: AdminClient
    answers: list[tuple[str, Future[Any]]]

    @property
    def answered(self) -> bool:
        """Whether `known` need not wait."""
        return all(future.done() for _, future in self.answers)

    def known(self) -> dict[str, str]:
        """The ids that were told; of what went wrong there is none."""
        told = [(name, future) for name, future in self.answers if future.exception() is None]
        return {name: str(future.result().topic_id) for name, future in told}


def _name_of(error: KafkaException) -> str:
    return str(error.args[0].name())


def _way_out(error: KafkaException) -> str:
    if _name_of(error) == "INVALID_REPLICATION_FACTOR":
        return "Ask for fewer copies (replication in the file, or --replication), or start more brokers"
    return "Correct the declaration"


def _facts(description: TopicDescription, configs: Mapping[str, ConfigEntry]) -> Topic:
    partitions = (
        Partition(
            id=partition.id,
            leader=None if partition.leader is None or partition.leader.id < 0 else partition.leader.id,
            replicas=_ids(partition.replicas),
            in_sync=_ids(partition.isr),
        )
        for partition in description.partitions
    )
    return Topic(
        description.name,
        tuple(sorted(partitions, key=lambda partition: partition.id)),
        {key: str(entry.value) for key, entry in configs.items()},
        frozenset(key for key, entry in configs.items() if ConfigSource(entry.source) is _SET_ON_TOPIC),
    )


def _group(description: ConsumerGroupDescription) -> Group:
    members = (
        Member(
            id=member.member_id,
            client=member.client_id,
            instance=member.group_instance_id,
            host=member.host.removeprefix("/"),
            assigned=tuple(sorted(Source(each.topic, each.partition) for each in _assigned(member))),
        )
        for member in description.members
    )
    return Group(
        name=description.group_id,
        state=description.state.name.lower().replace("_", " "),
        protocol=description.type.name.lower(),
        assignor=description.partition_assignor,
        members=tuple(sorted(members, key=lambda member: member.name)),
    )


def _assigned(member: MemberDescription) -> Sequence[TopicPartition]:
    """None where the group is of another kind than consumers, such as Connect's workers."""
    return getattr(member.assignment, "topic_partitions", None) or ()


def _ids(brokers: Iterable[Node]) -> tuple[int, ...]:
    return tuple(broker.id for broker in brokers)
