"""A member of a consumer group: records out, offsets in, and what a rebalance means for both."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import filterfalse, groupby
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from pipeline.core.ports import Commit, Listener
from pipeline.core.record import Record, TopicPartition, listed, place_of
from pipeline.errors import BrokerUnavailable, Fenced, MembershipLost, PipelineError, Unavailable
from pipeline.kafka.errors import translate
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.reader import to_records

# The group went on without this member: what it holds belongs to another one now.
_MEMBERSHIP_LOST = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001  # the client names its own codes so
    }
)
# A commit that comes at a bad moment is asked for again; nothing is lost meanwhile.
_COMMIT_AGAIN = frozenset(
    {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH, KafkaError.UNSTABLE_OFFSET_COMMIT}
)
# With auto.offset.reset=error: the log does not hold the next offset.
_DISPLACED = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION})  # noqa: SLF001
ASK_S = 5.0
# The broker's group.consumer.session.timeout.ms is 45 s: a name that is not free after this is a live twin's.
NAME_S = 60.0
_JOIN_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


def _reading(message: Message) -> str:
    """What was read when it failed, as far as the client says where."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or partition < 0:
        return "reading"
    return f"reading {topic} [{partition}]" + ("" if offset is None or offset < 0 else f" @ {offset}")


class GroupConsumer:
    """Implements `pipeline.core.ports.Source` on the client's `Consumer`; `properties` are `kafka.config.consumer`'s.

    `listener.assigned(partitions)` is called while polling; they come paused. `listener.given_up(partitions, lost)` is
    called while polling or closing, before partitions go: with `lost` false they may still be committed, with true they
    are another member's already. `listener.displaced(partitions)` is called while polling, where the broker's log does not
    hold the offset that comes next (retention passed it, the topic was made anew or truncated): the client would go on at
    the log's beginning or at its new end without a word, so it is told to stop there, until `rewind`.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        topics: Sequence[str],
        listener: Listener,
    ) -> None:
        self._listener = listener
        # KIP-848 hands partitions over one by one, the classic range assignor all of them at once.
        self._incremental = properties.get("group.protocol") == "consumer"
        self._joined = False
        self._assigned_now: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        # Where reading began, before anything was read; what is paused; and what the client does not read any more.
        self._begun: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._stalled: set[TopicPartition] = set()
        # Subscribed to the first topic alone for a moment; whether that is through.
        self._narrow = self._narrowed = False
        self._topics_missing: set[str] = set()
        self._properties = {
            **properties,
            "auto.offset.reset": "error",  # see above: where to read is decided by whoever looked at the log
            "error_cb": _log_error,
            "on_commit": self._committed,
        }
        self._topics = list(topics)
        self._taken_since: float | None = None
        self._join_again_at: float | None = None
        self._consumer = self._join()

    def _join(self) -> Consumer:
        consumer = Consumer(self._properties, logger=librdkafka_logger())
        self._narrow = self._narrowed = False
        self._subscribe(consumer, self._topics)
        return consumer

    def _subscribe(self, consumer: Consumer, topics: list[str]) -> None:
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def rejoin(self) -> None:
        """Have the group assign its partitions anew, while polling.

        A static member that comes back is given what it had, also where it subscribes to other topics now (the coordinator
        compares the assignor's name alone), and one that joins again as it was changes nothing: it has to join as another
        one first. With KIP-848 the broker itself looks after that.
        """
        if not self._incremental and len(self._topics) > 1:
            self._narrow = True
            self._subscribe(self._consumer, self._topics[:1])

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """Up to `limit` records: waits `timeout_s` seconds for the first, then takes what is there already.

        Raises `Fenced` when a twin with the same instance name took over (KIP-848: was there first, and stays), and what
        `kafka.errors.translate` gives for errors that will not pass by themselves (authorisation).
        """
        if self._narrowed:
            self._narrow = self._narrowed = False
            self._subscribe(self._consumer, self._topics)
        if self._join_again_at is not None and not self._joins_again(timeout_s):
            return []
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(limit - 1, 0)] if limit > 1 else [first]
        events = list(filter(Message.error, messages))
        records = to_records(list(filterfalse(Message.error, messages)) if events else messages)
        for place, run in groupby(records, place_of):
            # The last one says where it goes on.
            self._positions[TopicPartition(*place)] = list(run)[-1].offset + 1
        for event in events:
            self._event(event)
        return records

    def _event(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001
            where = TopicPartition(str(message.topic()), int(message.partition() or 0))
            # The end's offset, not the last record's: transaction markers take offsets too.
            self._positions[where] = max(self._positions.get(where, 0), int(message.offset() or 0))
        elif code in _DISPLACED:
            where = TopicPartition(str(message.topic()), int(message.partition() or 0))
            self._stalled.add(where)
            _log.info("%s [%d] gives nothing more: %s", *where, error.str())
            self._listener.displaced([where])
        elif code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            topic = str(message.topic())
            if topic not in self._topics_missing:
                self._topics_missing.add(topic)
                _log.warning("topic %s is not there: waiting for it (make topics creates the declared ones)", topic)
        elif code == KafkaError._MAX_POLL_EXCEEDED:  # noqa: SLF001
            _log.warning("the handler took longer than max.poll.interval.ms: the group went on without this member")
        elif error.fatal() or code in {KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID}:  # noqa: SLF001
            if KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str() not in error.str():
                raise _fatal_failure(error)
            self._wait_for_the_name()
        elif isinstance(problem := self._translated(error, message), Unavailable):
            _log.warning("%s", problem)
        else:
            raise problem

    def _translated(self, error: KafkaError, message: Message) -> PipelineError:
        group, principal = self._properties.get("group.id"), self._properties.get("sasl.username")
        needs = f"READ on Topic {message.topic()}" if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED else None
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            needs = f"READ on Group {group}"
        return translate(error, _reading(message), needs=needs, principal=principal)

    def _wait_for_the_name(self) -> None:
        """KIP-848 refuses whoever comes second with an instance name: who was killed has it until its session ends.

        That may be this one itself, which comes back after its coordinator was killed and finds what it was before.
        """
        now = time.monotonic()
        self._gone(set(self._assigned_now), lost=True)
        self._joined = False
        if self._taken_since is None:
            self._taken_since = now
            _log.warning("the instance name is still another member's: waiting until it is free")
        if now - self._taken_since > NAME_S:
            raise _fenced(KafkaError(KafkaError.UNRELEASED_INSTANCE_ID))
        self._join_again_at = now + _JOIN_AGAIN_S

    def _joins_again(self, timeout_s: float) -> bool:
        """The client calls it fatal, so it takes a new one; whether that is there by now."""
        assert self._join_again_at is not None
        left = self._join_again_at - time.monotonic()
        if left > 0:
            time.sleep(min(left, timeout_s))
            return False
        self._join_again_at = None
        self._consumer.close()
        self._consumer = self._join()
        return True

    def positions(self) -> dict[TopicPartition, int] | None:
        """The next offset to read of each assigned partition, -1 where nothing was read; None before the first assignment."""
        if not self._joined:
            return None
        return {where: self._positions.get(where, -1) for where in self._assigned_now}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver nothing of these; `poll` goes on keeping the membership alive. What was fetched ahead is fetched again."""
        self._paused |= self._assigned_now & set(partitions)
        self._consumer.pause(_places(self._assigned_now & set(partitions)))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver these, from where `poll` stopped."""
        self._paused.difference_update(partitions)
        self._consumer.resume(_places(self._assigned_now & set(partitions)))

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read on from these offsets; `BrokerUnavailable` when the client cannot seek now."""
        if not self._stalled.isdisjoint(offsets):
            self._assign_anew(offsets)
            return
        for where, offset in offsets.items():
            try:
                self._consumer.seek(ClientPartition(*where, offset))
            except KafkaException as error:
                problem = error.args[0].str()
                raise BrokerUnavailable(
                    f"{where.topic} [{where.partition}] cannot be read again yet: {problem}."
                ) from error
            self._positions.pop(where, None)
            self._begun[where] = offset

    def _assign_anew(self, offsets: Mapping[TopicPartition, int]) -> None:
        """A partition that the client stopped reading cannot be sought in, only assigned again.

        The classic protocol takes the whole assignment at once; what was read of the others goes on from where it was.
        """
        for where, offset in offsets.items():
            self._positions.pop(where, None)
            self._begun[where] = offset
        again = self._assigned_now & offsets.keys() if self._incremental else self._assigned_now
        places = [
            ClientPartition(*where, self._positions.get(where, self._begun.get(where, OFFSET_BEGINNING)))
            for where in sorted(again)
        ]
        try:
            if self._incremental:
                self._consumer.incremental_unassign(places)
                self._consumer.incremental_assign(places)
            else:
                self._consumer.assign(places)
            self._consumer.pause(_places(self._paused & again))
        except KafkaException as error:
            raise BrokerUnavailable(f"The assignment cannot be read anew yet: {error.args[0].str()}.") from error
        self._stalled.difference_update(again)

    def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Start committing the next offset to read of each partition; `listener.committed` is told while polling.

        It is told `MembershipLost` when the partitions are another member's now, `Fenced` when a twin took over (or
        `MembershipLost`, and the next `poll` raises `Fenced`), `BrokerUnavailable` when it has to be asked for again. Not
        waited for, because the client would wait a minute for a broker that is away, deaf to signals and to the group.
        """
        try:
            self._consumer.commit(offsets=_offsets(offsets), asynchronous=True)
        except KafkaException as error:
            self._listener.committed(_commit_failure(error.args[0]))

    def commit_now(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Commit and wait for the broker's word, for the moment before partitions go; raises what `commit` tells."""
        try:
            answered = self._consumer.commit(offsets=_offsets(offsets), asynchronous=False)
        except KafkaException as error:
            raise _commit_failure(error.args[0]) from error
        for each in answered or ():
            if each.error is not None:
                raise _commit_failure(each.error)

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int | None, str]]:
        """What the group committed in these: offset, None where it never did, and the words committed with it.

        Raises `BrokerUnavailable` after `ASK_S` seconds, or while a transaction is about to commit offsets there.
        """
        try:
            answered = self._consumer.committed(_places(partitions), timeout=ASK_S)
        except KafkaException as error:
            raise _commit_failure(error.args[0]) from error
        for each in answered:
            if each.error is not None:
                raise _commit_failure(each.error)
        return {
            TopicPartition(each.topic, each.partition): (each.offset if each.offset >= 0 else None, each.metadata or "")
            for each in answered
        }

    def group_metadata(self) -> Any:
        """Which member of which generation this is: fetched for each transaction anew, it fences zombies (KIP-447)."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Give the partitions up (with `given_up`) and leave the group; a static member stays in it.

        An assignment that the group made and nobody has polled yet is taken first: librdkafka 2.16 hangs for ever in
        about a quarter of the closes that meet one (`test_member_that_was_just_assigned_closes`).
        """
        try:
            self._consumer.poll(0)
        finally:
            self._consumer.close()

    def _committed(self, error: KafkaError | None, partitions: list[ClientPartition]) -> None:
        failed = error or next((each.error for each in partitions if each.error is not None), None)
        self._listener.committed(None if failed is None else _commit_failure(failed))

    def _assigned(self, consumer: Consumer, partitions: list[ClientPartition]) -> None:
        self._joined, self._taken_since, self._narrowed = True, None, self._narrow
        self._topics_missing.clear()
        _log.info("partitions assigned: %s", _names(partitions), extra=_fields(partitions))
        came = _set(partitions)
        for where in came:
            self._positions.pop(where, None)
            self._begun.pop(where, None)
        self._stalled -= came
        self._paused |= came
        for each in partitions:
            # Not where the group committed: they are read from where `rewind` says, and not before.
            each.offset = OFFSET_BEGINNING
        # Done here, not by the client after this: only so they can be paused before the first record comes.
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        consumer.pause(partitions)
        self._assigned_now |= came
        self._listener.assigned(came)

    def _revoked(self, _: Consumer, partitions: list[ClientPartition]) -> None:
        _log.info("partitions revoked: %s", _names(partitions), extra=_fields(partitions))
        self._gone(_set(partitions), lost=False)

    def _lost(self, _: Consumer, partitions: list[ClientPartition]) -> None:
        _log.warning(
            "partitions lost: %s: the group went on without this member", _names(partitions), extra=_fields(partitions)
        )
        self._gone(_set(partitions), lost=True)

    def _gone(self, partitions: set[TopicPartition], *, lost: bool) -> None:
        # The client may tell once more of what went with a name that was not free.
        went = partitions & self._assigned_now
        if went:
            self._listener.given_up(went, lost)
            self._assigned_now -= went
            self._paused -= went
            self._stalled -= went


def _set(partitions: Iterable[ClientPartition]) -> set[TopicPartition]:
    return {TopicPartition(each.topic, each.partition) for each in partitions}


def _places(partitions: Collection[TopicPartition]) -> list[ClientPartition]:
    return [ClientPartition(*where) for where in partitions]


def _offsets(offsets: Mapping[TopicPartition, Commit]) -> list[ClientPartition]:
    return [ClientPartition(*where, commit.offset, commit.metadata) for where, commit in offsets.items()]


def _names(partitions: Sequence[ClientPartition]) -> str:
    return listed(_set(partitions)) or "none"


def _fields(partitions: Sequence[ClientPartition]) -> dict[str, Any]:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(_set(partitions)):
        by_topic.setdefault(topic, []).append(partition)
    return {"partitions": by_topic}


def _fenced(error: KafkaError) -> Fenced:
    return Fenced(
        f"Another process with the same --instance name took over ({error.name()}). "
        "Give each member of the group a name of its own."
    )


def _fatal_failure(error: KafkaError) -> PipelineError:
    # A consumer is told only that something fatal happened; what it was stands in the words, which are the library's own.
    fenced = KafkaError(KafkaError.FENCED_INSTANCE_ID)
    return _fenced(fenced) if fenced.str() in error.str() else translate(error, "reading")


def _commit_failure(error: KafkaError) -> PipelineError:
    if error.code() == KafkaError.FENCED_INSTANCE_ID:
        return _fenced(error)
    # Why the client can do nothing any more it tells to the next poll alone.
    if error.code() in _MEMBERSHIP_LOST or error.code() == KafkaError._FATAL:  # noqa: SLF001
        return MembershipLost(error.str())
    if error.code() in _COMMIT_AGAIN or error.retriable():
        return BrokerUnavailable(f"The offsets could not be committed yet: {error.str()} ({error.name()}).")
    return translate(error, "committing offsets")


def _log_error(error: KafkaError) -> None:
    if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
        _log.warning("no broker answers: waiting for one")
    else:
        _log.debug("client: %s (%s)", error.str(), error.name())  # librdkafka's own line says the same
