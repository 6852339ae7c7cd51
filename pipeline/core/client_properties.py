"""The Kafka client's own configuration keys: which of them are ours to set, and how a `client.properties` is read.

A key that carries a promise of the pipeline (P1–P5, `docs/architecture.md`) cannot be passed through: whoever sets it
would take the promise away without a word. The value that keeps the promise is let through, because files in
circulation hold it (`acks=all` in every `client.properties` of Confluent Cloud).
"""

import re
from typing import NamedTuple

# librdkafka's key (aliases too) → the setting that is meant for it.
OWN_SETTING = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "group.id": "kafka.consumer_group",
    "group.instance.id": "kafka.instance",
    "group.protocol": "kafka.group_protocol",
    "compression.type": "kafka.compression",
    "compression.codec": "kafka.compression",
    "message.timeout.ms": "kafka.message_timeout_ms",
    "delivery.timeout.ms": "kafka.message_timeout_ms",
    "security.protocol": "kafka.security.protocol",
    "sasl.mechanisms": "kafka.security.mechanism",
    "sasl.mechanism": "kafka.security.mechanism",
    "sasl.username": "kafka.security.user",
    "sasl.password": "kafka.security.password",
    "ssl.ca.location": "kafka.security.ca_location",
}

MESSAGE_MAX_BYTES = 1_000_000_000
"""What a producer may send: all that librdkafka allows, since it measures before compression and the topic's own limit after.

A record of 10 MB that lies in a topic of 1 MB, compressed, must find its way into the dead-letter topic, too."""

_MAX_IN_FLIGHT = 5

_P1 = "promise P1 (an acknowledged order is in the log)"
_P2 = "promise P2 (every event is applied at least once)"
_P3 = "promise P3 (the forwarder is exactly-once)"
_P4 = "promise P4 (order is kept per key)"
_P5 = "promise P5 (no record is skipped silently)"

# key → (the values that keep the promise, what any other value breaks).
_FIXED = {
    "acks": (("all", "-1"), _P1),
    "request.required.acks": (("all", "-1"), _P1),
    "enable.idempotence": (("true",), _P1),
    "delivery.report.only.error": (("false",), _P1),
    "enable.auto.commit": (("false",), _P2),
    "auto.commit.enable": (("false",), _P2),
    "enable.auto.offset.store": (("false",), _P2),
    "isolation.level": (("read_committed",), _P3),
    "transactional.id": ((), f"{_P3}, which names its transactions after kafka.instance"),
    "partitioner": (("murmur2_random",), _P4),
    "partition.assignment.strategy": (("range",), _P4),
    "group.remote.assignor": (("range",), _P4),
    "auto.offset.reset": (("earliest", "smallest", "beginning"), _P5),
    "enable.partition.eof": (("true",), "--until-end, which learns the end from it"),
    "enable.ssl.certificate.verification": (
        ("true",),
        "the proof that the broker is the one you mean (name its CA in kafka.security.ca_location)",
    ),
}


class Properties(NamedTuple):
    """What a file says: `values` under the names of our settings, the key each was `written` as, and what is wrong."""

    values: dict[str, str]
    written: dict[str, str]
    problems: list[str]


def why_reserved(key: str, value: str) -> str | None:
    """Why `key=value` may not be passed to the client, or None if it may."""
    if key in OWN_SETTING:
        return f"has a setting of its own: use {OWN_SETTING[key]}"
    if key in _FIXED:
        allowed, broken = _FIXED[key]
        return None if value.lower() in allowed else f"would break {broken}: leave it out"
    if key in {"retries", "message.send.max.retries"} and value == "0":
        return f"would break {_P1}: leave it out, kafka.message_timeout_ms is the limit"
    if key in {"max.in.flight", "max.in.flight.requests.per.connection"} and _above(value, _MAX_IN_FLIGHT):
        return f"would break {_P4}: a broker remembers {_MAX_IN_FLIGHT} batches of a producer, use no more"
    if key == "message.max.bytes" and not _above(value, MESSAGE_MAX_BYTES - 1):
        return f"would break {_P5}: a dead letter must fit into it: leave it out"
    return None


def is_secret(key: str) -> bool:
    """Whether a client key holds something that must not be printed; generous, for keys to come."""
    return (
        re.search(r"password|passphrase|secret|pem$|_key$|jaas|sasl\.oauthbearer\.config|user\.info", key) is not None
    )


def parse(text: str) -> Properties:
    """Read a `client.properties` of librdkafka or Java as Confluent Cloud hands it out.

    Keys that have a setting become that setting, the others `kafka.extra.<key>`. Values are taken raw, as librdkafka's
    own examples do, for a password may hold a backslash. Problems name the line or the key, never a value.
    """
    pairs, problems = _pairs(text)
    placeholders = [key for key, value in pairs.items() if "{{" in value]
    problems += [f"{key} is still a placeholder: put your own value in" for key in placeholders]
    properties = Properties({}, {}, problems)
    pairs = {key: value for key, value in pairs.items() if key not in placeholders}
    _registry(pairs, properties)
    _jaas(pairs, properties)
    for key, value in pairs.items():
        _take(properties, OWN_SETTING.get(key, f"kafka.extra.{key}"), value, key)
    if pairs.get("security.protocol", "").upper().startswith("SASL_"):
        _take(properties, "kafka.security.use_sasl", "true", "kafka.security.use_sasl")
    return properties


def _take(properties: Properties, setting: str, value: str, key: str) -> None:
    properties.values[setting] = value
    properties.written[setting] = key


def _pairs(text: str) -> tuple[dict[str, str], list[str]]:
    """Key and value of each line; `#` and `!` are comments, a backslash at the end joins the next line."""
    pairs: dict[str, str] = {}
    problems = []
    begun = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = begun + raw.strip()
        begun = ""
        if not line or line.startswith(("#", "!")):
            continue
        if line.endswith("\\"):
            begun = line[:-1]
        elif match := re.fullmatch(r"([\w.-]+)\s*[=:]\s*(.*)", line):
            pairs[match[1]] = match[2]
        else:
            problems.append(f"line {number} is not key=value")
    return pairs, problems


def _registry(pairs: dict[str, str], properties: Properties) -> None:
    """The registry's keys, in the names of Confluent's clients."""
    if url := pairs.pop("schema.registry.url", None):
        _take(properties, "registry.url", url, "schema.registry.url")
    source = pairs.pop("basic.auth.credentials.source", "USER_INFO")
    if source != "USER_INFO":
        properties.problems.append(
            "basic.auth.credentials.source is understood as USER_INFO only: give basic.auth.user.info=USER:PASSWORD"
        )
    user_info = pairs.pop("basic.auth.user.info", None)
    if user_info is None:
        return
    user, colon, password = user_info.partition(":")
    if not colon:
        properties.problems.append("basic.auth.user.info is not USER:PASSWORD")
        return
    _take(properties, "registry.user", user, "basic.auth.user.info")
    _take(properties, "registry.password", password, "basic.auth.user.info")


def _jaas(pairs: dict[str, str], properties: Properties) -> None:
    """Java's way to write user and password: `...LoginModule required username='U' password='P';`."""
    jaas = pairs.pop("sasl.jaas.config", None)
    if jaas is None or "sasl.username" in pairs:
        return
    found = {name: re.search(rf"\b{name}=(['\"])(.*?)\1", jaas) for name in ("username", "password")}
    for name, match in found.items():
        if match:
            pairs[f"sasl.{name}"] = match[2]
        else:
            properties.problems.append(f"sasl.jaas.config holds no {name}='...': give sasl.{name} instead")


def _above(value: str, limit: int) -> bool:
    """Whether a number is above a limit; what is not a number is the client's to refuse."""
    try:
        return int(value) > limit
    except ValueError:
        return False
