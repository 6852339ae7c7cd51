"""Reading the declaration of topics: a TOML text, whose keys `schemas/topics.toml` explains, and its rules."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pipeline.errors import TopicRefused

BROKER_DEFAULT = -1
PARTITIONS_MAX = 10_000  # what one request may create (Kafka's ReplicationControlManager)
REPLICATION_MAX = 32_767
RETENTION_MS = "retention.ms"
_INT64_MAX = 2**63 - 1
_KEYS = ("name", "partitions", "replication", "retention", "configs", "purpose")
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_RETENTION = re.compile(r"([0-9]+) ?([smhdw])")
PARKED = ".parked"
_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


@dataclass(frozen=True, slots=True)
class Declared:
    """A topic as the file wants it; `configs` holds Kafka's own names and values, retention among them."""

    name: str
    partitions: int
    replication: int = BROKER_DEFAULT
    configs: Mapping[str, str] = field(default_factory=dict)
    purpose: str = ""

    @property
    def source(self) -> str | None:
        """The topic whose dead letters this one takes, by its name; None where it takes none.

        `orders.dlq.v1` takes those of `orders.v1`, and `orders.dlq.v1.parked` what was redriven from there too often.
        """
        if self.name.endswith(PARKED):
            return self.name.removesuffix(PARKED)
        parts = self.name.split(".")
        return ".".join(part for part in parts if part != "dlq") if "dlq" in parts else None


def is_topic_name(name: str) -> bool:
    """Whether a topic can have this name: Kafka's own rule (`org.apache.kafka.common.internals.Topic`)."""
    return _NAME.fullmatch(name) is not None and name not in {".", ".."}


def parse(text: str, where: str) -> tuple[Declared, ...]:
    """The topics that a declaration lists, in its order, each checked by itself and against the others.

    Raises `TopicRefused`, naming `where`, the topic and the way out.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TopicRefused(f"{where} is not TOML: {error}") from error
    _only_known(document, ("topic",), where)
    tables = document.get("topic", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise TopicRefused(f"{where} declares no topic: each one is a table that opens with [[topic]]")
    return check([_declared(table, where) for table in tables], where)


def check(topics: Iterable[Declared], where: str) -> tuple[Declared, ...]:
    """The same topics, checked against each other: names that are one to Kafka, dead letters that would not fit."""
    seen: dict[str, Declared] = {}
    for topic in topics:
        # Kafka's metrics write '.' as '_', so the broker refuses a second name that differs only there.
        twin = seen.setdefault(topic.name.replace(".", "_"), topic)
        if twin is not topic:
            raise TopicRefused(
                f"{where} declares {twin.name!r} and {topic.name!r}, which are one name to Kafka: rename or remove one"
            )
    by_name = {topic.name: topic for topic in seen.values()}
    for topic in by_name.values():
        _check_writable(topic, where)
        if topic.source is not None:
            _check_dead_letters(topic, by_name.get(topic.source), where)
    return tuple(by_name.values())


def override(
    topics: Iterable[Declared], partitions: int | None, replication: int | None, where: str
) -> tuple[Declared, ...]:
    """The same topics with these counts instead of the file's, where they are given, and checked again."""
    if partitions is not None:
        _whole(partitions, 1, PARTITIONS_MAX, "--partitions")
    if replication is not None and replication != BROKER_DEFAULT:
        _whole(replication, 1, REPLICATION_MAX, "--replication", f" (or {BROKER_DEFAULT}: the broker's default)")
    asked = {"partitions": partitions, "replication": replication}
    given: dict[str, Any] = {key: count for key, count in asked.items() if count is not None}
    return check((replace(topic, **given) for topic in topics), where)


def listed(value: str) -> frozenset[str]:
    """The parts of a config's value: Kafka's lists (`compact,delete`) mean the same in any order."""
    return frozenset(part.strip() for part in value.split(","))


def _declared(table: Mapping[str, Any], where: str) -> Declared:
    name = table.get("name")
    if not isinstance(name, str):
        raise TopicRefused(f'{where}: a [[topic]] has no name: give it name = "..."')
    _check_name(name, where)
    here = f"{where}, topic {name!r}"
    _only_known(table, _KEYS, here)
    if "partitions" not in table:
        raise TopicRefused(f"{here}: partitions is missing: say how many, as in partitions = 6")
    partitions = _whole(table["partitions"], 1, PARTITIONS_MAX, f"{here}: partitions")
    replication = table.get("replication", BROKER_DEFAULT)
    if replication != BROKER_DEFAULT or isinstance(replication, float):
        hint = f" (or {BROKER_DEFAULT}: the broker's default)"
        replication = _whole(replication, 1, REPLICATION_MAX, f"{here}: replication", hint)
    purpose = table.get("purpose", "")
    if not isinstance(purpose, str) or "\n" in purpose:
        raise TopicRefused(f"{here}: purpose is one line of text")
    configs = _configs(table.get("configs", {}), here)
    if "retention" in table:
        if RETENTION_MS in configs:
            raise TopicRefused(f"{here}: retention and {RETENTION_MS} say the same: keep one of them")
        configs[RETENTION_MS] = _retention(table["retention"], here)
    topic = Declared(name, partitions, replication, configs, purpose)
    if topic.source is not None:
        configs.setdefault("cleanup.policy", "delete")  # whatever the broker's default is
    return topic


def _check_name(name: str, where: str) -> None:
    if not is_topic_name(name):
        raise TopicRefused(
            f"{where}: {name!r} is not a topic name: "
            "1 to 249 letters (a-z, A-Z), digits, '.', '_' and '-', and not '.' or '..' alone"
        )
    if name.startswith("__"):
        raise TopicRefused(f"{where}: {name!r}: names that begin with '__' are Kafka's own: take another one")


def _check_writable(topic: Declared, where: str) -> None:
    least = topic.configs.get("min.insync.replicas", "1")
    if topic.replication != BROKER_DEFAULT and least.isdecimal() and int(least) > topic.replication:
        raise TopicRefused(
            f"{where}, topic {topic.name!r}: min.insync.replicas {least} is more than its replication "
            f"{topic.replication}: every write would be refused. Lower the one or raise the other"
        )


def _check_dead_letters(topic: Declared, source: Declared | None, where: str) -> None:
    here = f"{where}, topic {topic.name!r}"
    if "compact" in listed(topic.configs.get("cleanup.policy", "delete")):
        raise TopicRefused(
            f"{here}: a dead-letter topic is never compacted, a second letter of a key would remove the first: "
            'set cleanup.policy = "delete"'
        )
    if source is None:
        raise TopicRefused(
            f"{here}: by its name it takes the dead letters of {topic.source!r}, which is not declared: "
            "declare that one, or correct the name"
        )
    if topic.partitions < source.partitions:
        raise TopicRefused(
            f"{here}: {topic.partitions} partitions are fewer than the {source.partitions} of {source.name!r}, "
            f"and letters keep the partition of their source: give it {source.partitions}"
        )


def _retention(value: object, here: str) -> str:
    if value == "forever":
        return "-1"
    match = _RETENTION.fullmatch(value.strip()) if isinstance(value, str) else None
    ms = int(match[1]) * _MS[match[2]] if match and len(match[1]) < len(str(_INT64_MAX)) else 0
    if not 0 < ms <= _INT64_MAX:
        raise TopicRefused(
            f'{here}: {value!r} is no retention: write a number and s, m, h, d or w, as in "7d", or "forever"'
        )
    return str(ms)


def _configs(value: object, here: str, prefix: str = "") -> dict[str, str]:
    """Kafka's dotted names; unquoted, TOML reads the dots as tables within tables, which means the same here."""
    if not isinstance(value, dict):
        raise TopicRefused(f'{here}: configs is a table, as in [topic.configs] with "cleanup.policy" = "delete"')
    configs: dict[str, str] = {}
    for key, held in value.items():
        match held:
            case dict():
                configs |= _configs(held, here, f"{prefix}{key}.")
            case bool():
                configs[prefix + key] = str(held).lower()
            case str() | int() | float():
                configs[prefix + key] = str(held)
            case _:
                raise TopicRefused(f"{here}: config {prefix + key} is neither text, number nor true or false")
    return configs


def _whole(value: object, least: int, most: int, what: str, hint: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise TopicRefused(f"{what} is a whole number from {least} to {most}{hint}, not {value!r}")
    return value


def _only_known(table: Mapping[str, Any], known: Sequence[str], here: str) -> None:
    for key in table:
        if key not in known:
            _unknown(key, known, here)


def _unknown(key: str, known: Sequence[str], here: str) -> NoReturn:
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    raise TopicRefused(f"{here}: unknown key {key!r}: {hint}")
