"""The Kafka client's own configuration keys: which of them are ours to set, and how a `client.properties` is read.

A key that carries a promise of the pipeline (P1–P5, `docs/architecture.md`) cannot be passed through: whoever sets it
would take the promise away without a word. The value that keeps the promise is let through, because files in
circulation hold it (`acks=all` in every `client.properties` of Confluent Cloud).
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from pipeline.core import java_properties
from pipeline.core.addresses import is_loopback

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
_PROOF = "the proof that the broker is the one you mean (name its CA in kafka.security.ca_location)"

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
    "enable.ssl.certificate.verification": (("true", "t", "1"), _PROOF),
    "ssl.endpoint.identification.algorithm": (("https",), _PROOF),
    "enable.sasl.oauthbearer.unsecure.jwt": (
        ("false", "f", "0"),
        "the proof of who you are: such a token has no signature",
    ),
}
# What a file in the current folder could make this process, or a shell, run.
_RUNS_CODE = {
    "plugin.library.paths": "a library",
    "sasl.kerberos.kinit.cmd": "a command",
    "ssl.engine.id": "a library",
    "ssl.engine.location": "a library",
    "ssl.providers": "a library",
}
# Of cipher suites, as OpenSSL and Java name them: without encryption, without authentication, or broken long ago.
_NO_CIPHER = re.compile(r"(?:^|[_+-])(A?NULL|ENULL|ADH|AECDH|ANON|EXP|EXPORT|COMPLEMENTOFALL)(?:$|[_+-])|@SECLEVEL=0")

# Of Java's client alone (ProducerConfig, ConsumerConfig, AdminClientConfig, SaslConfigs, SslConfigs of Kafka 4.4, without
# what has an equivalent here): nothing of it can be meant for this one.
JAVA_ONLY = frozenset(  # one a line would be three screens
    """
    bootstrap.controllers bootstrap.resolve.timeout.ms buffer.memory buffer.memory.allocation.strategy
    compression.gzip.level compression.lz4.level compression.zstd.level config.providers default.api.timeout.ms
    default.list.key.serde.inner default.list.key.serde.type default.list.value.serde.inner
    default.list.value.serde.type exclude.internal.topics interceptor.classes
    internal.throw.on.fetch.stable.offset.unsupported key.deserializer key.serializer max.block.ms max.request.size
    metadata.cluster.check.enable metadata.max.idle.ms metric.reporters metrics.num.samples metrics.recording.level
    metrics.sample.window.ms partitioner.adaptive.partitioning.enable partitioner.availability.timeout.ms
    partitioner.class partitioner.ignore.keys partitioner.rack.aware rebalance.timeout.ms receive.buffer.bytes
    sasl.client.callback.handler.class sasl.kerberos.ticket.renew.jitter sasl.kerberos.ticket.renew.window.factor
    sasl.login.callback.handler.class sasl.login.class sasl.login.connect.timeout.ms sasl.login.read.timeout.ms
    sasl.login.refresh.buffer.seconds sasl.login.refresh.min.period.seconds sasl.login.refresh.window.factor
    sasl.login.refresh.window.jitter sasl.login.retry.backoff.max.ms sasl.login.retry.backoff.ms
    sasl.oauthbearer.allow.unverified.audience sasl.oauthbearer.allow.unverified.issuer
    sasl.oauthbearer.assertion.template.file sasl.oauthbearer.clock.skew.seconds sasl.oauthbearer.expected.audience
    sasl.oauthbearer.expected.issuer sasl.oauthbearer.header.urlencode sasl.oauthbearer.jwks.endpoint.refresh.ms
    sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms sasl.oauthbearer.jwks.endpoint.retry.backoff.ms
    sasl.oauthbearer.jwks.endpoint.url sasl.oauthbearer.jwt.retriever.class sasl.oauthbearer.jwt.validator.class
    sasl.oauthbearer.scope.claim.name security.providers send.buffer.bytes share.acquire.mode
    socket.connection.setup.timeout.max.ms ssl.client.auth ssl.enabled.protocols ssl.engine.factory.class
    ssl.keymanager.algorithm ssl.protocol ssl.provider ssl.secure.random.implementation ssl.trustmanager.algorithm
    transaction.two.phase.commit.enable value.deserializer value.serializer
    key.subject.name.strategy value.subject.name.strategy auto.register.schemas use.latest.version
    specific.avro.reader avro.remove.java.properties
    """.split()  # noqa: SIM905
)
# Java's names for what librdkafka calls otherwise.
_RENAMED = {
    "fetch.max.wait.ms": "fetch.wait.max.ms",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
    "ssl.truststore.certificates": "ssl.ca.pem",
}
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")


class Properties(NamedTuple):
    """What a file says: `values` under the names of our settings, the key each was `written` as, and what is wrong.

    `passed_over` are keys that only Java's client has.
    """

    values: dict[str, str]
    written: dict[str, str]
    problems: list[str]
    passed_over: list[str]


def why_reserved(key: str, value: str) -> str | None:
    """Why `key=value` may not be passed to the client, or None if it may."""
    key, said = key.strip().lower(), value.strip().lower()
    if key in OWN_SETTING:
        return f"has a setting of its own: use {OWN_SETTING[key]}"
    if key in _FIXED:
        allowed, broken = _FIXED[key]
        return None if said in allowed else f"would break {broken}: leave it out"
    return _why_unsafe(key, said) or _why_promised(key, said)


def _why_promised(key: str, value: str) -> str | None:
    if key in {"retries", "message.send.max.retries"} and value == "0":
        return f"would break {_P1}: leave it out, kafka.message_timeout_ms is the limit"
    if key in {"max.in.flight", "max.in.flight.requests.per.connection"} and _above(value, _MAX_IN_FLIGHT):
        return f"would break {_P4}: a broker remembers {_MAX_IN_FLIGHT} batches of a producer, use no more"
    if key == "message.max.bytes" and not _above(value, MESSAGE_MAX_BYTES - 1):
        return f"would break {_P5}: a dead letter must fit into it: leave it out"
    return None


def _why_unsafe(key: str, value: str) -> str | None:
    if key in _RUNS_CODE:
        return f"would make this process run {_RUNS_CODE[key]} of somebody's choosing: leave it out"
    if key.startswith("test."):
        return f"would break {_P1}: it puts a cluster that forgets in place of yours. Leave it out"
    if key == "ssl.cipher.suites":
        suites = [each for each in re.split(r"[:, ]+", value.upper()) if not each.startswith(("!", "-"))]
        if any(map(_NO_CIPHER.search, suites)):
            return (
                "would let the connection go without encryption or without proof of the broker: leave such suites out"
            )
    if key == "sasl.oauthbearer.token.endpoint.url" and value.startswith("http:"):
        host = urlsplit(value).hostname or ""
        return None if is_loopback(host) else "would send the client's secret unencrypted: use an https:// URL"
    return None


def is_secret(key: str) -> bool:
    """Whether a client key holds something that must not be printed; generous, for keys to come and other spellings."""
    return (
        re.search(
            r"passw|passphrase|pwd|secret|pem$|[._]key$|jaas|token$|api_?key|sasl\.oauthbearer\.config|user\.?info",
            key,
            re.IGNORECASE,
        )
        is not None
    )


def parse(text: str) -> Properties:
    """Read a `client.properties` as Java does, of Java or of librdkafka as Confluent Cloud hands it out.

    Keys that have a setting become that setting, the others `kafka.extra.<key>`, without blanks at their ends, as Kafka
    takes them. Problems name the line or the key, never a value.
    """
    properties = Properties({}, {}, [], [])
    lines = _lines(text, properties)
    pairs = {key: line.value or "" for key, line in lines.items()}
    for key in ("schema.registry.basic.auth.user.info", "schema.registry.basic.auth.credentials.source"):
        if key in pairs:
            pairs[key.removeprefix("schema.registry.")] = pairs.pop(key)
    _registry(pairs, properties)
    _jaas(pairs, properties, lines)
    _trust(pairs, properties, lines)
    for key, value in pairs.items():
        if key in JAVA_ONLY:
            properties.passed_over.append(key)
            continue
        name = _RENAMED.get(key, key)
        _take(properties, OWN_SETTING.get(name, f"kafka.extra.{name}"), _in_our_words(name, value), key)
    if pairs.get("security.protocol", "").upper().startswith("SASL_"):
        _take(properties, "kafka.security.use_sasl", "true", "kafka.security.use_sasl")
    return properties


def _take(properties: Properties, setting: str, value: str, key: str) -> None:
    properties.values[setting] = value
    properties.written[setting] = key


def _lines(text: str, properties: Properties) -> dict[str, java_properties.Line]:
    """The last line of each key; what is wrong with others is noted."""
    lines: dict[str, java_properties.Line] = {}
    for line in java_properties.pairs(text):
        if isinstance(line, str):
            properties.problems.append(line)
        elif line.value is None or not re.fullmatch(r"[\w.-]+", line.key):
            properties.problems.append(f"line {line.number} is not key=value")
        elif "{{" in line.value:
            properties.problems.append(f"{line.key} is still a placeholder: put your own value in")
        elif line.key in {"sasl.username", "sasl.password", "basic.auth.user.info"} and _CONTROL.search(
            line.value.strip()
        ):
            properties.problems.append(
                f"line {line.number}: {line.key} holds a control character. In this file a backslash begins an escape: "
                "write \\\\ for a backslash of the value"
            )
        else:
            # Java has no such keys: whoever wrote them wrote for librdkafka, which knows no escapes.
            value = line.literal if line.key in {"sasl.username", "sasl.password"} else line.value
            lines[line.key] = line._replace(value=value.strip())
    return lines


def _in_our_words(key: str, value: str) -> str:
    if key == "partition.assignment.strategy" and value.endswith(".RangeAssignor") and "," not in value:
        return "range"
    return value.lower() if key in {"group.protocol", "compression.type"} else value


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


def _jaas(pairs: dict[str, str], properties: Properties, lines: dict[str, java_properties.Line]) -> None:
    """Java's way to write user and password: `...LoginModule required username='U' password='P';`."""
    jaas = pairs.pop("sasl.jaas.config", None)
    if jaas is None or "sasl.username" in pairs:
        return
    where = f"line {lines['sasl.jaas.config'].number}: sasl.jaas.config"
    try:
        module, options = java_properties.login(jaas)
    except ValueError as error:
        properties.problems.append(f"{where} {error}")
        return
    if module.endswith(".OAuthBearerLoginModule"):
        _oauth(pairs, properties, options, where)
    elif module.endswith(".Krb5LoginModule"):
        properties.problems.append(f"{where} asks for Kerberos, which is not among the mechanisms here")
    elif options.get("tokenauth", "").lower() == "true":
        properties.problems.append(f"{where} asks for a delegation token (tokenauth), which only Java's client can use")
    else:
        for name in ("username", "password"):
            if name in options:
                pairs[f"sasl.{name}"] = options[name]
            else:
                properties.problems.append(f"sasl.jaas.config holds no {name}='...': give sasl.{name} instead")


def _oauth(pairs: dict[str, str], properties: Properties, options: dict[str, str], where: str) -> None:
    names = {"clientId": "client.id", "clientSecret": "client.secret", "scope": "scope"}
    if "clientId" not in options or "clientSecret" not in options:
        properties.problems.append(
            f"{where} holds no clientId='...' and clientSecret='...': OAUTHBEARER is understood with those only"
        )
        return
    pairs |= {f"sasl.oauthbearer.{name}": options[option] for option, name in names.items() if option in options}
    pairs.setdefault("sasl.oauthbearer.method", "oidc")
    extensions = {name.removeprefix("extension_"): value for name, value in options.items() if "extension_" in name}
    if extensions:
        pairs["sasl.oauthbearer.extensions"] = ",".join(f"{name}={value}" for name, value in extensions.items())


def _trust(pairs: dict[str, str], properties: Properties, lines: dict[str, java_properties.Line]) -> None:
    """Java's trust and key stores: PEM files are taken, its own formats cannot be read here."""
    kinds = {name: pairs.pop(f"ssl.{name}.type", "").upper() for name in ("truststore", "keystore")}
    location = pairs.pop("ssl.truststore.location", None)
    pairs.pop("ssl.truststore.password", None)
    if location is not None and "ssl.ca.location" not in pairs:
        if kinds["truststore"] == "PEM":
            pairs["ssl.ca.location"] = location
        else:
            properties.problems.append(
                f"line {lines['ssl.truststore.location'].number}: ssl.truststore.location is a store of Java's, which cannot "
                "be read here: write its certificates as PEM into a file, and give ssl.ca.location"
            )
    if kinds["keystore"] == "PEM" and (file := pairs.pop("ssl.keystore.location", None)):
        pairs |= {"ssl.certificate.location": file, "ssl.key.location": file}
    elif kinds["keystore"] == "JKS":
        properties.problems.append(
            f"line {lines['ssl.keystore.type'].number}: ssl.keystore.type=JKS cannot be read here: convert it to PKCS12"
        )


def _above(value: str, limit: int) -> bool:
    """Whether a number is above a limit; what is not a number is the client's to refuse."""
    try:
        return int(value) > limit
    except ValueError:
        return False
