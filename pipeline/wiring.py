"""The composition root: the one place that joins settings, adapters and stages. Doors ask here for whole stages."""

import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import logs, telemetry
from pipeline.core.dead_letter import Worker
from pipeline.core.destinations import allowing, destinations
from pipeline.core.failures import Failure, Verdict, judge
from pipeline.core.ports import Listener
from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import GROUP, PARKED, REDRIVEN, Selection, merge_patch
from pipeline.core.retry import RetryPolicy
from pipeline.core.topic_file import Declared, listed
from pipeline.core.visible import sentence
from pipeline.errors import BrokerUnavailable, NotAuthorized, SchemaRefused, Stopped, TopicRefused, Unavailable
from pipeline.kafka import config
from pipeline.kafka.admin import Cluster
from pipeline.kafka.consumer import GroupConsumer
from pipeline.kafka.follow import Follower
from pipeline.kafka.producer import IdempotentProducer
from pipeline.kafka.reader import read_all, read_between
from pipeline.kafka.redrive_targets import redrive_targets, timestamps_of
from pipeline.kafka.registry import Registry
from pipeline.kafka.topic_log import TopicLog
from pipeline.kafka.transactions import GroupOffsets, TransactionalProducer
from pipeline.orders import ORDER_RECORD
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroReader, AvroWriter, load_ahead
from pipeline.serde.avro_schema import resolve
from pipeline.serde.json_values import JsonValues
from pipeline.serde.patches import read_patch
from pipeline.serde.writer_schemas import WriterSchemas
from pipeline.settings import Settings
from pipeline.stages import provision, schema_gate, schema_report, topic_report
from pipeline.stages.consume import Consume
from pipeline.stages.crew import crew_for
from pipeline.stages.forward import Forward
from pipeline.stages.group_topics import GroupTopics
from pipeline.stages.handlers import Handler, adapt, load, load_transform, refuse_misfit
from pipeline.stages.intake import Intake, Made
from pipeline.stages.letter_index import Bounds, LetterIndex
from pipeline.stages.letters import Ledger, LetterReader
from pipeline.stages.outbox import Outbox
from pipeline.stages.outgoing import Addressing
from pipeline.stages.produce import Produce
from pipeline.stages.purge import Purge
from pipeline.stages.redrive import Redrive, ledger
from pipeline.stages.report import ProduceReport, consume_report, rejects_file
from pipeline.stages.unacknowledged import unacknowledged_file

if TYPE_CHECKING:
    from pipeline.sinks.sql import OrderStore

GIVE_UP_AFTER_S = 30.0
CONNECT_S = 10.0
_RETRY_EVERY_S = 1.0
_BUGS = {"stop": Verdict.STOP, "retry": Verdict.TRY_AGAIN, "dead-letter": Verdict.GIVE_UP}
_log = logging.getLogger(__name__)
T = TypeVar("T")


def registry(settings: Settings) -> Registry:
    """The schema registry of the settings."""
    it = settings.registry
    password = it.password.get_secret_value() if it.password else None
    return Registry(it.url, user=it.user, password=password, ca_location=it.ca_location, timeout_s=it.timeout_s)


def cluster(settings: Settings) -> Cluster:
    """The cluster of the settings, to ask about topics, offsets and groups."""
    return Cluster(config.connection(settings.kafka))


def subject_of(topic: str) -> str:
    """TopicNameStrategy."""
    return f"{topic}-value"


def encoder(settings: Settings, topic: str) -> AvroWriter:
    """A writer with the newest schema file of the topic's subject and its registered id, looked up by content and compared.

    Raises `SchemaRefused` when it is not registered, `RegistryUnavailable` when nobody answers.
    """
    newest = _schemas(settings).subject(subject_of(topic)).newest
    with registry(settings) as asked:
        return AvroWriter(_record(newest), schema_gate.registered_id(newest, asked))


def decoder(settings: Settings, topic: str, schema_by_id: Callable[[int], str]) -> AvroReader:
    """A reader with the newest schema file of the topic's subject; the writers' schemas come from the registry."""
    newest = _schemas(settings).subject(subject_of(topic)).newest
    return AvroReader(_record(newest), schema_by_id)


def _schemas(settings: Settings) -> schema_files.Schemas:
    return schema_files.load(schema_files.directory(settings.schemas.dir))


def _name(file: schema_files.SchemaFile) -> str:
    return str(resolve(file.schema).root["name"])


def _record(file: schema_files.SchemaFile) -> dict[str, Any]:
    if not isinstance(file.schema, dict):
        raise SchemaRefused(f"{file.path} holds no record. An event is a record.")
    return file.schema


@contextmanager
def produce(
    settings: Settings,
    orders: Intake | Made,
    *,
    rate: float | None,
    rejects: str | None,
    unacknowledged: str | None,
    give_up_after_s: float,
    stopping: Callable[[], bool],
    verbose: bool,
) -> Iterator[Produce]:
    """The produce stage, once schema, broker and topic were found; it is refused before anything is sent otherwise.

    A broker that is away before anything was sent is waited for, 30 s at most; `Stopped` when asked to stop meanwhile.
    """
    topic = settings.kafka.topic
    # Without end: while the broker is away orders wait in their order, and are sent once when it is back. Where the client's
    # own time runs out with some under way, it begins a new epoch, and may write those once more.
    properties = config.producer(settings.kafka) | {"message.timeout.ms": 0}
    config.check(settings.kafka)
    _require_orders(settings, topic)
    schema = encoder(settings, topic)
    newest = _schemas(settings).subject(subject_of(topic)).newest
    _wait_for(
        lambda: _require_topics(settings, topic, within_s=_RETRY_EVERY_S),
        stopping=stopping,
        give_up_after_s=GIVE_UP_AFTER_S,
    )
    default = f"unacknowledged-{topic}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    with (
        rejects_file(rejects, orders.file) as file,
        unacknowledged_file(
            unacknowledged,
            default,
            orders.file,
            is_csv=orders.is_csv,
            decode=AvroReader(_record(newest), lambda _: newest.text).decode,
            say=telemetry.say,
        ) as kept,
    ):
        report = ProduceReport(telemetry.say, verbose=verbose, unacknowledged=kept, rejects=file)
        publisher = IdempotentProducer(properties)
        try:
            yield Produce(
                publisher=publisher,
                topic=topic,
                encoder=schema,
                clock=time.monotonic,
                delivered=report.delivered,
                refused=report.refused,
                rate=rate,
                give_up_after_s=give_up_after_s,
            )
        finally:
            # Each order has its report by now; but where something broke, nobody waits for a broker that is away.
            publisher.close(within_s=GIVE_UP_AFTER_S)


def order_publisher(settings: Settings, stopping: Callable[[], bool]) -> tuple[IdempotentProducer, AvroWriter]:
    """What publishes single orders, and their writer, once schema, broker and topic were found. The caller closes it.

    A registry or a broker that is away is waited for without end; `Stopped` when asked to stop meanwhile.
    """
    topic = settings.kafka.topic
    # Without end: whoever asked is told "unknown" by the API's own clock. Where the client's runs out with a record under way,
    # it begins a new epoch, and writes what was under way with it once more.
    properties = config.producer(settings.kafka) | {"message.timeout.ms": 0}
    config.check(settings.kafka)
    _require_orders(settings, topic)
    wait = partial(_wait_for, stopping=stopping, give_up_after_s=None)
    schema = wait(lambda: encoder(settings, topic))
    wait(lambda: _require_topics(settings, topic, within_s=_RETRY_EVERY_S))
    return IdempotentProducer(properties), schema


def order_store(settings: Settings) -> "OrderStore":
    """The order store of the settings, to read from. The caller closes it."""
    from pipeline.sinks.sql import OrderStore  # noqa: PLC0415  # see _handler

    return OrderStore(settings.store.url.get_secret_value(), settings.store.timeout_s)


@contextmanager
def consume(
    settings: Settings,
    *,
    handler: str | None,
    until_end: bool,
    stopping: Callable[[], bool],
    verbose: bool,
    seen: Callable[[Record, Failure | None], None] | None = None,
    until_settled: bool = False,
) -> Iterator[Consume]:
    """The consume stage, a member of its group from here on.

    What is wrong in itself (handler, settings, schemas, a missing dead-letter topic) is refused; so is a schema that cannot
    read what was written, or a handler that no record fits: the whole topic would become dead letters. What is only down
    is waited for: without end, or with `until_end` for 30 s. `Stopped` when asked to stop meanwhile.
    `seen` is told of every settled record, in place of what `verbose` prints.
    """
    kafka = settings.kafka
    properties = config.consumer(kafka)
    once = until_end or until_settled
    config.check(settings.kafka)
    with _handler(settings, handler) as (work, inspect), registry(settings) as writers, ExitStack() as opened:
        load_ahead()
        reader = decoder(settings, kafka.topic, WriterSchemas(writers.schema_by_id, time.monotonic))
        newest = _schemas(settings).subject(subject_of(kafka.topic)).newest
        wait = partial(_wait_for, stopping=stopping, give_up_after_s=GIVE_UP_AFTER_S if once else None)
        wait(lambda: _require_fit(settings, work, writers, only=settings.consume.only))
        envelope = wait(lambda: encoder(settings, kafka.dead_letter_topic))
        beside = _group_topics(settings)
        tiers = wait(beside.tiers)
        topics = [kafka.topic, *tiers.values()]
        wait(lambda: _require_letters(settings))
        wait(inspect)
        provided = wait(lambda: beside.provide(tiers))
        ends = wait(lambda: _ends(settings, topics)) if once else None
        publisher = opened.enter_context(closing(IdempotentProducer(config.producer(kafka))))
        it, bugs = settings.consume, _BUGS[settings.retry.bugs]
        timeout_s = it.handler_timeout_s or None
        crew = opened.enter_context(
            closing(crew_for(work, it.concurrency, it.batch, judged=judge(bugs), timeout_s=timeout_s))
        )

        def join(listener: Listener) -> GroupConsumer:
            return opened.enter_context(closing(GroupConsumer(properties, topics, listener)))

        yield Consume(
            source=join,
            log=TopicLog(properties, lambda: cluster(settings)),
            topics=topics,
            decoder=reader,
            handler=replace(work, reader_schema=_record(newest)),
            crew=crew,
            outbox=Outbox(publisher, kafka.dead_letter_topic, envelope, time.monotonic),
            worker=Worker(kafka.consumer_group, kafka.instance or socket.gethostname()),
            policy=beside.policy(retry_policy(settings), tiers),
            clock=time.monotonic,
            now_ms=lambda: time.time_ns() // 1_000_000,
            jitter=random.random,
            keep_order=settings.retry.keep_order,
            only=settings.consume.only,
            crash_limit=settings.consume.crash_limit,
            careful_s=settings.consume.careful_s,
            life=secrets.token_hex(8),
            bugs=bugs,
            handler_timeout_s=timeout_s,
            seen=seen or consume_report(telemetry.say, verbose=verbose, as_fields=logs.json_lines()),
            until=ends,
            settle=until_settled,
            provide=lambda: beside.grow_along(tiers),
            provided=provided,
        )


@contextmanager
def forward(
    settings: Settings,
    *,
    transform: str,
    until_end: bool,
    stopping: Callable[[], bool],
    pause_at: Callable[[str], None] = lambda _: None,
    until_settled: bool = False,
) -> Iterator[Forward]:
    """The forward stage, a member of its group from here on; refused and waited for as `consume` is.

    The transactional id is `<group>-<instance>`; the instance, a static member of the group, is the host's name by default.
    """
    instance = settings.kafka.instance or socket.gethostname()
    ours = {"consumer_group": settings.forward.group, "instance": instance}
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update=ours)})
    kafka = settings.kafka
    properties = config.consumer(kafka)
    once = until_end or until_settled
    config.check(settings.kafka)
    work = load_transform(transform)
    with registry(settings) as writers, ExitStack() as opened:
        load_ahead()
        reader = decoder(settings, kafka.topic, WriterSchemas(writers.schema_by_id, time.monotonic))
        wait = partial(_wait_for, stopping=stopping, give_up_after_s=GIVE_UP_AFTER_S if once else None)
        wait(lambda: _require_fit(settings, work, writers, only=settings.forward.only))
        envelope = wait(lambda: encoder(settings, kafka.dead_letter_topic))
        encoders = {settings.forward.topic: wait(lambda: encoder(settings, settings.forward.topic))}
        beside = _group_topics(settings)
        tiers = wait(beside.tiers)
        topics = [kafka.topic, *tiers.values()]
        wait(lambda: _require_letters(settings))
        wait(lambda: _require_topics(settings, settings.forward.topic))
        provided = wait(lambda: beside.provide(tiers))
        ends = wait(lambda: _ends(settings, topics)) if once else None

        policy = beside.policy(retry_policy(settings), tiers)

        def connect() -> TransactionalProducer:
            return TransactionalProducer(
                config.producer(kafka),
                f"{kafka.consumer_group}-{instance}",
                timeout_s=CONNECT_S,
                transaction_s=settings.forward.transaction_timeout_ms / 1000,
            )

        def encoder_of(topic: str) -> AvroWriter:
            if topic not in encoders:
                encoders[topic] = encoder(settings, topic)
            return encoders[topic]

        def join(listener: Listener) -> GroupConsumer:
            return opened.enter_context(closing(GroupConsumer(properties, topics, listener)))

        yield Forward(
            source=join,
            log=TopicLog(properties, lambda: cluster(settings)),
            connect=connect,
            topics=topics,
            output=settings.forward.topic,
            dead_letters=kafka.dead_letter_topic,
            decoder=reader,
            event=work.event,
            transform=work.function,
            encoder=encoder_of,
            envelope=envelope,
            worker=Worker(kafka.consumer_group, instance),
            # A try in place would hold its partition up, so with retry topics there is one.
            policy=replace(policy, attempts=1 if policy.open else policy.attempts),
            clock=time.monotonic,
            now_ms=lambda: time.time_ns() // 1_000_000,
            jitter=random.random,
            window=lambda topic: timestamps_of(cluster(settings), topic),
            keep_order=settings.retry.keep_order,
            only=settings.forward.only,
            batch=settings.forward.batch,
            interval_s=settings.forward.commit_interval_s,
            bugs=_BUGS[settings.retry.bugs],
            until=ends,
            settle=until_settled,
            provide=lambda: beside.grow_along(tiers),
            provided=provided,
            pause_at=pause_at,
        )


def retry_policy(settings: Settings) -> RetryPolicy:
    """How often, when and where a failed record is tried again."""
    it = settings.retry
    return RetryPolicy(it.attempts, it.backoff_s, it.backoff_max_s, it.delays)


def _group_topics(settings: Settings) -> GroupTopics:
    kafka = settings.kafka
    return GroupTopics(
        kafka.topic,
        kafka.consumer_group,
        kafka.dead_letter_topic,
        settings.retry.delays,
        lambda: Cluster(config.connection(kafka), reads_configs=False),
    )


@contextmanager
def letters(settings: Settings) -> Iterator[LetterReader]:
    """The reader of the dead-letter topic, up to the end that it has now."""
    topic = settings.kafka.dead_letter_topic
    _require_topics(settings, topic)
    with registry(settings) as writers:
        yield _letter_reader(settings, cluster(settings).end_offsets(topic), writers)


@contextmanager
def letter_index(settings: Settings) -> Iterator[LetterIndex]:
    """The list of the dead-letter topic's letters, empty until it is refreshed; the topic may come later."""
    topic = settings.kafka.dead_letter_topic

    def bounds(name: str) -> Bounds:
        asked = cluster(settings)
        life = asked.topic_ids([name]).get(name)
        if life is None:
            return Bounds({})
        ends = asked.end_offsets(name)
        firsts = asked.beginning_offsets(name)
        return Bounds({each: (first, ends[each]) for each, first in firsts.items() if each in ends}, life)

    with registry(settings) as writers:
        yield LetterIndex(
            topic, _letter_reader(settings, {}, writers), bounds, partial(read_between, config.consumer(settings.kafka))
        )


def follower(settings: Settings, back_ms: int, records_max: int) -> Follower:
    """Follows the topic, from so many milliseconds ago on, but at most as many records of each partition back."""
    topic, asked = settings.kafka.topic, cluster(settings)
    _require_topics(settings, topic, within_s=_RETRY_EVERY_S)
    sources = [TopicPartition(topic, each) for each in range(asked.partitions(topic) or 0)]
    ends, since = asked.offsets_at(sources, "latest"), asked.offsets_at(sources, time.time_ns() // 1_000_000 - back_ms)
    starts = {each: max(since[each] if since[each] >= 0 else end, end - records_max, 0) for each, end in ends.items()}
    return Follower(config.consumer(settings.kafka), starts)


def contracts(settings: Settings) -> dict[str, Any]:
    """What is declared and what is there: the topics with their plan, the subjects with versions and differences."""
    schemas, asked = _schemas(settings), cluster(settings)
    declared = provision.read(
        settings.topics.file or schema_files.directory(settings.schemas.dir) / "topics.toml", None, None
    )
    asked.wait_until_reachable(_RETRY_EVERY_S)
    outcome = provision.survey(asked, declared, grow=False)
    with registry(settings) as writers:
        return {
            "topics": topic_report.values(outcome)["topics"],
            "declared": [each.name for each in declared],
            "plan": topic_report.planned(outcome),
            "subjects": schema_report.listing(schemas, writers, everything=False),
            **schema_report.differences_values(schema_gate.survey(schemas, writers)),
        }


@contextmanager
def redrive(
    settings: Settings,
    *,
    selection: Selection = Selection(),  # noqa: B008  # frozen
    to_source: bool = False,
    allow_topic: str | None = None,
    patch: str | None = None,
    max_redrives: int = 3,
    batch: int = 100,
    rate: float | None = None,
) -> Iterator[Redrive]:
    """The redrive stage for the letters that are there now. Other redrives of the topic go on until it takes over.

    Letters go to the settings' topic and groups, to a group that `selection` names, and to `allow_topic` where `selection`
    names that as the source.
    """
    topic, asked = settings.kafka.dead_letter_topic, cluster(settings)
    own = [settings.kafka.consumer_group, settings.forward.group, *([selection.group] if selection.group else [])]
    allowed = destinations(topic, [settings.kafka.topic], own)
    if allow_topic is not None:
        allowed = allowing(allowed, allow_topic, selection.source)
    config.check(settings.kafka)
    _require_topics(settings, topic)
    with registry(settings) as writers, ExitStack() as open_clients:
        ends = asked.end_offsets(topic)

        group = open_clients.enter_context(closing(GroupOffsets(config.connection(settings.kafka), topic + GROUP)))

        def take_over() -> TransactionalProducer:
            _provide_ledger(asked, topic + REDRIVEN)
            producer = TransactionalProducer(config.producer(settings.kafka), topic + GROUP, timeout_s=GIVE_UP_AFTER_S)
            return open_clients.enter_context(closing(producer))

        addressing = Addressing(
            topic=topic,
            cluster=redrive_targets(asked, settings.retry.delays),
            destinations=allowed,
            now_ms=lambda: time.time_ns() // 1_000_000,
            to_source=to_source,
            patch=None if patch is None else _patch(settings, patch, writers),
            max_redrives=max_redrives,
        )
        yield Redrive(
            topic=topic,
            ends=ends,
            reader=_letter_reader(settings, ends, writers),
            addressing=addressing,
            take_over=take_over,
            group=group.metadata,
            clock=time.monotonic,
            sleep=time.sleep,
            say=telemetry.say,
            batch=batch,
            rate=rate,
        )


@contextmanager
def purge(settings: Settings) -> Iterator[Purge]:
    """The purge stage for the letters that are there now."""
    topic, asked = settings.kafka.dead_letter_topic, cluster(settings)
    _require_topics(settings, topic)
    with registry(settings) as writers:
        ends = asked.end_offsets(topic)
        yield Purge(topic, ends, _letter_reader(settings, ends, writers), asked)


def _letter_reader(settings: Settings, ends: dict[int, int], writers: Registry) -> LetterReader:
    topic, asked = settings.kafka.dead_letter_topic, cluster(settings)
    known = {subject.name for subject in _schemas(settings)}

    @cache
    def original(source: str) -> AvroReader | None:
        return decoder(settings, source, writers.schema_by_id) if subject_of(source) in known else None

    def marks() -> Ledger:
        marked = topic + REDRIVEN
        if asked.partitions(marked) is None:
            return {}
        lying = read_all(config.consumer(settings.kafka), marked, asked.end_offsets(marked))
        return ledger(
            lying, lambda others: _log.warning("%s: passed over %d records that are no marks", marked, others)
        )

    return LetterReader(
        records=partial(read_all, config.consumer(settings.kafka), topic, ends),
        # What is parked is a letter still.
        envelope=decoder(settings, topic.removesuffix(PARKED), writers.schema_by_id),
        originals=original,
        ledger=marks,
    )


def _provide_ledger(asked: Cluster, name: str) -> None:
    """Make the ledger where it is not there; refused where it would forget, and so let letters be sent again."""
    configs = {"cleanup.policy": "compact"}
    asked.create([Declared(name, 1, configs=configs, purpose="Which letters were redriven.")])

    def led() -> None:
        # Whoever made it, a moment ago perhaps: a broker does not know a new topic at once.
        if asked.partitions(name) is None:
            raise BrokerUnavailable(f"The ledger {name} is not known to every broker yet.")
        asked.end_offsets(name)

    _wait_for(led, stopping=lambda: False, give_up_after_s=GIVE_UP_AFTER_S)
    policy = asked.topic_configs([name])[name]["cleanup.policy"]
    if policy != "compact":
        raise TopicRefused(
            f"The ledger {name} has cleanup.policy={policy}: it would forget which letters were redriven. "
            "Set it to compact."
        )


def _patch(settings: Settings, text: str, writers: Registry) -> Callable[[str, bytes | None], bytes]:
    """A merge patch for originals: decoded with the newest schema, patched, typed, written with the registered one."""
    patch = read_patch(text)

    @cache
    def codec(topic: str) -> tuple[AvroReader, AvroWriter, JsonValues]:
        schema = _record(_schemas(settings).subject(subject_of(topic)).newest)
        return decoder(settings, topic, writers.schema_by_id), encoder(settings, topic), JsonValues(resolve(schema))

    def patched(topic: str, value: bytes | None) -> bytes:
        reader, writer, json_values = codec(topic)
        return writer.encode(json_values.typed(merge_patch(reader.decode(value), patch)))

    return patched


@contextmanager
def _handler(settings: Settings, reference: str | None) -> Iterator[tuple[Handler, Callable[[], None]]]:
    """The handler, and a look at what it writes to, which refuses what will never do."""
    if reference is not None:
        yield load(reference), lambda: None
        return
    from pipeline.sinks.sql import OrderStore, StoreOrders  # noqa: PLC0415  # a handler of the user's needs no SQLAlchemy

    store = OrderStore(settings.store.url.get_secret_value(), settings.store.timeout_s)
    try:
        yield adapt(StoreOrders(store), "the order store"), store.inspect
    finally:
        store.close()


def _require_orders(settings: Settings, topic: str) -> None:
    newest = _schemas(settings).subject(subject_of(topic)).newest
    if ORDER_RECORD not in newest.names:
        raise SchemaRefused(
            f"produce writes orders ({ORDER_RECORD}), but the schema of {newest.subject} is {_name(newest)}. "
            "Name a topic of orders: --topic, or PIPELINE_KAFKA__TOPIC."
        )


def _require_topics(settings: Settings, *topics: str, within_s: float = GIVE_UP_AFTER_S) -> None:
    asked = cluster(settings)
    asked.wait_until_reachable(within_s)
    for topic in topics:
        if asked.partitions(topic) is None:
            raise TopicRefused(f"The topic {topic} is not there. Create the declared topics: make topics.")


def _require_fit(settings: Settings, work: Handler, writers: Registry, *, only: bool) -> None:
    """Refused when all records would be given up: their schemas are not read here, or the handler fits none of them.

    What others share the topic is said, as far as the registry tells.
    """
    subject = _schemas(settings).subject(subject_of(settings.kafka.topic))
    fields = [field["name"] for field in _record(subject.newest)["fields"]]
    refuse_misfit(work, fields, _name(subject.newest))
    said: list[str] = []
    schema_gate.check_reader(subject, writers, said.append, only=only)
    said += schema_gate.other_events(settings.kafka.topic, subject, writers, only=only)
    for line in said:
        _log.warning("%s", line.removeprefix("! "))


def _require_letters(settings: Settings) -> None:
    """Refused when letters would have nowhere to go."""
    kafka, asked = settings.kafka, cluster(settings)
    asked.wait_until_reachable(_RETRY_EVERY_S)
    if (asked.partitions(kafka.dead_letter_topic) or 0) < (asked.partitions(kafka.topic) or 1):
        raise TopicRefused(
            f"The dead-letter topic {kafka.dead_letter_topic} is not there, or has fewer partitions than "
            f"{kafka.topic}: letters keep the partition of their source. Create the declared topics: make topics."
        )
    try:
        policy = (
            asked.topic_configs([kafka.dead_letter_topic]).get(kafka.dead_letter_topic, {}).get("cleanup.policy", "")
        )
    except NotAuthorized:
        return  # which a plain consumer need not be: `topics describe` tells whoever may ask
    if "compact" in listed(policy):
        raise TopicRefused(
            f"The dead-letter topic {kafka.dead_letter_topic} has cleanup.policy={policy}: a second letter of a key would "
            "remove the first. Set it to delete."
        )


def _ends(settings: Settings, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Where each partition of these topics ends now."""
    asked = cluster(settings)
    asked.wait_until_reachable(_RETRY_EVERY_S)
    if asked.partitions(topics[0]) is None:
        raise TopicRefused(f"The topic {topics[0]} is not there. Create the declared topics: make topics.")
    try:
        return {TopicPartition(topic, each): end for topic in topics for each, end in asked.end_offsets(topic).items()}
    except TopicRefused as error:
        # The source is there; a retry topic that was made a moment ago is not known to every broker yet.
        raise BrokerUnavailable(str(error)) from error


def _wait_for(attempt: Callable[[], T], *, stopping: Callable[[], bool], give_up_after_s: float | None) -> T:
    """What `attempt` returns once nothing it needs is down; `Stopped` when asked to stop before.

    What is waited for is said, once, and not before it was tried twice: a topic made a moment ago has no leader yet.
    """
    started, tried, said = time.monotonic(), False, ""
    while not stopping():
        try:
            return attempt()
        except Unavailable as outage:
            waited = time.monotonic() - started
            if give_up_after_s is not None and waited >= give_up_after_s:
                raise type(outage)(f"{sentence(str(outage))} (Tried for {waited:.0f} s.)") from outage
            if tried and str(outage) != said:
                said = str(outage)
                _log.warning("%s Waiting for it.", sentence(said))
            tried = True
            time.sleep(_RETRY_EVERY_S)
    raise Stopped
