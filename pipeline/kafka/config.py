"""From the settings to librdkafka's properties: every value that is not the client's default, and why it is set.

`[kafka.extra]` may tune anything but what carries a promise: the promises are merged last, so they win even over
settings that were not read by `load()`.
"""

import ctypes
import difflib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from typing import IO, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, cimpl

from pipeline.core.client_properties import MESSAGE_MAX_BYTES
from pipeline.errors import SettingsRefused
from pipeline.settings import Kafka

Properties = dict[str, Any]

# The clients of `check` have nothing to say but what they raise.
_SILENT = logging.Logger("silent")  # noqa: LOG001
_SILENT.addHandler(logging.NullHandler())

_BLAMED = re.compile(r'property:? "([^"]+)"')


def connection(kafka: Kafka) -> Properties:
    """What every client needs to get into the cluster; enough for an `AdminClient`."""
    security = kafka.security
    properties: Properties = {
        "client.id": "orders-pipeline",  # in the broker's logs, quotas and metrics
        "socket.keepalive.enable": True,  # a peer that vanished without a word is noticed
        **_extra(kafka, "*"),
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": security.protocol,
    }
    if security.use_sasl:
        properties["sasl.mechanisms"] = security.mechanism
        if security.user is not None:
            properties["sasl.username"] = security.user
        if security.password is not None:
            properties["sasl.password"] = security.password.get_secret_value()
    if security.ca_location is not None:
        properties["ssl.ca.location"] = str(security.ca_location)
    return properties


def producer(kafka: Kafka) -> Properties:
    """P1 (in the log once acknowledged, without doubles by retries) and P4 (same key, same partition, in order)."""
    return {
        "linger.ms": 5,  # batches fill up; a single order waits no longer than this
        "batch.size": 65_536,  # hundreds of orders compress well together; the default of 1 MB only adds memory
        "message.max.bytes": MESSAGE_MAX_BYTES,  # the topic's own limit decides
        **connection(kafka),
        **_extra(kafka, "P"),
        "compression.type": kafka.compression,
        "message.timeout.ms": kafka.message_timeout_ms,  # after it the outcome is unknown, and said to be
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # the partition that a Java producer would choose for the key
    }


# What is fetched before it is asked for: some tenths of a second's work, in a tenth of the memory (decision 0011).
READ_AHEAD: Properties = {
    "queued.min.messages": 10_000,  # of each partition; a full queue rests
    "fetch.queue.backoff.ms": 20,  # for so long; after the default of 1 s it has run dry
    "max.partition.fetch.bytes": 262_144,  # in one answer; a larger record still comes, whole
}


def consumer(kafka: Kafka) -> Properties:
    """P2 (offsets move when we say so), P3 (nothing aborted is read), P4 (co-assignment) and P5 (from the start on)."""
    return {
        "max.poll.interval.ms": 300_000,  # a handler may take this long before its partitions go to somebody else
        # A topic that was not there when the group was joined is looked for so often, by default after 5 minutes: as long
        # as a retry topic is missing, its source is not read.
        "topic.metadata.refresh.interval.ms": 10_000,
        **READ_AHEAD,
        "check.crcs": True,  # damaged bytes are an outage of the broker, never bad data
        **connection(kafka),
        **_group(kafka, _extra(kafka, "C")),
        "group.id": kafka.consumer_group,
        "auto.offset.reset": "earliest",  # a new group reads what was there before it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,  # --until-end, and the offset behind a transaction's last marker
        "isolation.level": "read_committed",
    }


def check(kafka: Kafka) -> None:
    """Refuse what librdkafka itself would refuse, without a connection to anything.

    The client does not say which properties it knows, so it is asked by building throw-away clients.
    Raises `SettingsRefused` with all of them, unknown ones with the nearest known one.
    """
    problems = _problems(Producer, producer(kafka)) | _problems(Consumer, consumer(kafka))
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in sorted(problems))
        raise SettingsRefused(f"The Kafka client refuses kafka.extra (or the file of KAFKA_CONFIG_FILE):{listed}")


def check_names(kafka: Kafka) -> None:
    """Refuse properties that librdkafka does not have, without making a client: to look at settings runs nothing of theirs.

    Where its table cannot be read, nothing is refused.
    """
    unknown = sorted(kafka.extra.keys() - scopes().keys()) if scopes() else []
    if unknown:
        listed = "".join(f"\n  - {_unknown(name)}" for name in unknown)
        raise SettingsRefused(f"The Kafka client refuses kafka.extra (or the file of KAFKA_CONFIG_FILE):{listed}")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, scopes(), n=1)
    return f"{name} is not a property of librdkafka" + "".join(f": did you mean {n}?" for n in near)


def _group(kafka: Kafka, extra: Properties) -> Properties:
    """Range in both protocols: a partition of the source and of its retry topics must belong to one member."""
    if kafka.group_protocol == "consumer":
        # KIP-848: the broker owns the session. Every client.properties of Confluent Cloud sets its timeout, so it is
        # passed over here and not refused as librdkafka does.
        extra.pop("session.timeout.ms", None)
        return {**extra, "group.protocol": "consumer", "group.remote.assignor": "range", **_instance(kafka)}
    # Three missed heartbeats (3 s each) make a member dead: its partitions wait 10 s, not the default 45.
    return {"session.timeout.ms": 10_000, **extra, "partition.assignment.strategy": "range", **_instance(kafka)}


def _instance(kafka: Kafka) -> Properties:
    return {} if kafka.instance is None else {"group.instance.id": kafka.instance}


def _problems(client: type[Producer | Consumer], properties: Properties) -> set[str]:
    """Build the client until it accepts, each time without the property it blamed the time before."""
    # Unknown names first: an error that names no property ends the search.
    names = sorted(properties.keys() - {"bootstrap.servers"}, key=lambda name: (name in scopes(), name))
    trial = {name: properties[name] for name in names}
    problems: set[str] = set()
    while True:
        try:
            built = client(trial, logger=_SILENT)
        except (KafkaException, TypeError, ValueError, AttributeError) as error:
            reason = error.args[0].str() if isinstance(error.args[0], KafkaError) else str(error)
            blamed = _BLAMED.search(reason)
            name = blamed[1] if blamed else ""
            if reason.startswith("No such"):
                reason = _unknown(name)
            problems.add(reason.strip())
            if trial.pop(name, None) is None:
                return problems
        else:
            if isinstance(built, Consumer):
                built.close()
            return problems


def _extra(kafka: Kafka, scope: str) -> Properties:
    """The keys of `[kafka.extra]` for producers (P), consumers (C) or all (*, and what the table does not know).

    librdkafka warns on every start of a client that is given the other kind's.
    """
    return {key: value for key, value in kafka.extra.items() if scopes().get(key, "*") == scope}


@cache
def scopes() -> Mapping[str, str]:
    """Every property librdkafka has, and whose: P for producers, C for consumers, * for both.

    Read from the table that the library itself prints (`rd_kafka_conf_properties_show`), which the Python client does
    not expose. Empty where the platform does not let us call it: then nothing is sorted out, and no name is suggested.
    """
    try:
        library, libc = ctypes.CDLL(cimpl.__file__), ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        with _scratch() as table:
            stream = ctypes.c_void_p(libc.fdopen(os.dup(table.fileno()), b"w"))
            library.rd_kafka_conf_properties_show(stream)
            libc.fclose(stream)
            table.seek(0)
            lines: Iterable[str] = table.read().decode().splitlines()
    except (OSError, AttributeError, TypeError):
        return {}
    rows = (re.match(r"(\S+)\s+\|\s+([PC*])\s+\|", line) for line in lines)
    return {row[1]: row[2] for row in rows if row}


def _scratch() -> IO[bytes]:
    """A file of no folder where there is such a thing: a container may have none to write to."""
    return os.fdopen(os.memfd_create("properties"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
