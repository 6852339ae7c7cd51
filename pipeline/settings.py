"""Every setting of the pipeline: one tree, its defaults, and the contradictions that are refused.

Flag > environment (`PIPELINE_KAFKA__BOOTSTRAP_SERVERS`) > `.env` > `pipeline.toml` > `KAFKA_CONFIG_FILE` > default.
`load()` is the only way in: it asks each source by itself, for it says where a value came from, refuses names that no
setting has, and lists all that is wrong at once. `Settings()` alone holds the defaults and reads nothing.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pipeline.core import addresses, client_properties
from pipeline.core.retry import duration, short, topic_name
from pipeline.errors import SettingsRefused
from pipeline.sources import EXTRA, PASSED_OVER, Given, borrowed, build, expanded, names, read, shown, written

is_loopback = addresses.is_loopback
_log = logging.getLogger(__name__)
MASK = "••••"
NO_TIERS = "none"
TIERS_MAX = 8
KEY_CHARACTERS_MIN = 16


def _servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")]
    for server in servers:
        match = re.fullmatch(r"(?:[\w.-]+|\[[0-9A-Fa-f:.%\w]+\]):(\d+)", server)
        if not match:
            raise ValueError("not HOST:PORT, or several separated by commas, without a scheme such as SASL_SSL://")
        if not 0 < int(match[1]) < 2**16:
            raise ValueError(f"{match[1]} is no port: ports are 1 to {2**16 - 1}")
    return ",".join(servers)


def _topic_name(value: str) -> str:
    """Kafka's own rule (`org.apache.kafka.common.internals.Topic`)."""
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", value) or value in {".", ".."}:
        raise ValueError("not a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', and not '.' or '..'")
    return value


def _registry_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not re.fullmatch(r"[\w.:%-]+", host or "") or parts.scheme not in {"http", "https"}:
        raise ValueError("not a URL of the form http(s)://HOST[:PORT][/PATH]")
    if parts.username is not None:
        raise ValueError("holds a user or a password: give them as registry.user and registry.password")
    return value.rstrip("/")


def _store_url(value: SecretStr) -> SecretStr:
    if not re.match(r"[\w+]+://", value.get_secret_value()):
        raise ValueError("not a database URL such as sqlite:///orders.db or postgresql+psycopg://USER:PASSWORD@HOST/DB")
    return value


def _tiers(value: str) -> str:
    """Delays of retry topics: each longer than the one before, so that a tier's first record is its next one due."""
    tiers = [tier.strip() for tier in value.split(",")]
    if tiers == [NO_TIERS]:
        return NO_TIERS
    delays = [duration(tier) or 0.0 for tier in tiers]
    if not all(delays) or sorted(set(delays)) != delays or len(delays) > TIERS_MAX:
        raise ValueError(f"not growing delays such as 5s,1m,10m (s, m, h or d; at most {TIERS_MAX}), nor {NO_TIERS}")
    return ",".join(map(short, delays))


def _api_keys(value: SecretStr | None) -> SecretStr | None:
    for key in value.get_secret_value().split(",") if value else ():
        if not re.fullmatch(r"[!-~]*", key.strip()):
            raise ValueError("not keys of printable ASCII without spaces, several separated by commas")
        if 0 < len(key.strip()) < KEY_CHARACTERS_MIN:
            raise ValueError(f"a key has at least {KEY_CHARACTERS_MIN} characters: `openssl rand -hex 16` makes one")
    return value


def _hosts(value: str) -> str:
    """Names, `*.` with a name, addresses or networks; as `pipeline.api.hosts` compares them."""
    hosts = [host.strip().lower().removesuffix(".") for host in value.split(",") if host.strip()]
    for host in hosts:
        if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", host) and not _is_network(host):
            raise ValueError(
                f"{host} is no host such as orders.example, *.example, 10.1.2.3 or 10.0.0.0/8 (without scheme and port)"
            )
    return ",".join(hosts)


def _is_network(text: str) -> bool:
    try:
        ip_network(text.strip("[]"))
    except ValueError:
        return False
    return True


def _seconds(value: object) -> object:
    """A number of seconds, or one with its unit: `10`, `10s`."""
    if isinstance(value, str) and not re.fullmatch(r"[\d.]+", value.strip()):
        return duration(value.strip()) or value
    return _no_bool(value)


def _crash_limit(value: int) -> int:
    if value == 1:
        raise ValueError("not 0 (no limit) nor 2 or more: after one death nobody knows yet which record it was")
    return value


def _text(value: object) -> object:
    """TOML's own types, in the words of librdkafka."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Servers = Annotated[str, BeforeValidator(lambda v: ",".join(map(str, v)) if isinstance(v, list) else v)]
Topic = Annotated[str, AfterValidator(_topic_name)]
File = Annotated[Path, AfterValidator(expanded)]
Number = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**31 - 1)]
Processes = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1000)]
Port = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**16 - 1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Security(_Section):
    """How to get into the cluster; the names of the settings of the article's configuration."""

    use_sasl: bool = False
    mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], BeforeValidator(_upper)] = (
        "SCRAM-SHA-512"
    )
    user: str | None = None
    password: SecretStr | None = None
    protocol: Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)] = (
        "PLAINTEXT"
    )
    ca_location: File | None = None


class Kafka(_Section):
    """The cluster, the names used on it, and librdkafka's own keys under `extra`."""

    bootstrap_servers: Annotated[Servers, AfterValidator(_servers)] = "localhost:9092"
    topic: Topic = "orders.v1"
    dead_letter_topic: Topic = "orders.dlq.v1"
    consumer_group: str = "orders-workers"
    instance: str | None = None
    group_protocol: Literal["classic", "consumer"] = "classic"
    compression: Literal["lz4", "zstd", "snappy", "gzip", "none"] = "lz4"
    message_timeout_ms: Number = 30_000
    security: Security = Security()
    # Not in repr: a key may hold a secret (`ssl.key.password`).
    extra: dict[str, Annotated[str, BeforeValidator(_text)]] = Field(default_factory=dict, repr=False)


class Consume(_Section):
    """How many processes, handlers side by side in each, records at once, how long a handler may take, and how many deaths of
    its worker a record is granted.
    """

    processes: Processes = 1

    concurrency: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=10_000)] = 1
    batch: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=10_000)] = 10_000
    handler_timeout_s: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=86_400, allow_inf_nan=False)] = 0
    crash_limit: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1000), AfterValidator(_crash_limit)] = 3
    only: bool = False
    careful_s: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=86_400, allow_inf_nan=False)] = 60


class Retry(_Section):
    """What happens to a record whose handler failed: tries in place, then through the retry topics, then a dead letter."""

    attempts: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1000)] = 3
    backoff_s: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=3600, allow_inf_nan=False)] = 0.2
    backoff_max_s: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=3600, allow_inf_nan=False)] = 5
    tiers: Annotated[Servers, AfterValidator(_tiers)] = "5s,1m,10m"
    bugs: Literal["stop", "retry", "dead-letter"] = "stop"
    keep_order: bool = True

    @property
    def delays(self) -> tuple[float, ...]:
        """The tiers in seconds."""
        return tuple(duration(each) or 0.0 for each in self.tiers.split(",") if each != NO_TIERS)


class Registry(_Section):
    """The schema registry, by its Confluent-compatible API."""

    url: Annotated[str, AfterValidator(_registry_url)] = "http://localhost:8081/apis/ccompat/v7"
    user: str | None = None
    password: SecretStr | None = None
    ca_location: File | None = None
    timeout_s: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)] = 10


class Schemas(_Section):
    """Where the Avro contracts lie, if not in the installed package."""

    dir: File | None = None


class Topics(_Section):
    """Where the declared topics lie, if not in the installed package."""

    file: File | None = None


class Store(_Section):
    """Where processed orders land (a secret, for the URL may hold a password), and how long its server may be silent."""

    url: Annotated[SecretStr, AfterValidator(_store_url)] = SecretStr("sqlite:///orders.db")
    timeout_s: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=600, allow_inf_nan=False)] = 15


class Forward(_Section):
    """The forwarder: its group, where it writes, and how long a transaction lasts."""

    group: str = "orders-forwarder"
    topic: Topic = "orders.by-customer.v1"
    commit_interval_s: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=60, allow_inf_nan=False)] = 0.1
    batch: Number = 10_000
    processes: Processes = 1
    transaction_timeout_ms: Annotated[int, BeforeValidator(_no_bool), Field(ge=1000, le=900_000)] = 60_000
    only: bool = False


class Api(_Section):
    """The orders API: where it listens, who may use it, how much it takes on at once, and how long it waits."""

    host: str = "127.0.0.1"
    port: Port = 8000
    worker: bool = True
    keys: Annotated[SecretStr | None, AfterValidator(_api_keys)] = None
    allowed_hosts: Annotated[Servers, AfterValidator(_hosts)] | None = None
    connections: Number = 2_000
    publish_timeout: Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=600, allow_inf_nan=False)] = 10
    read_timeout: Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=600, allow_inf_nan=False)] = 10
    queue: Number = 10_000
    requests: Number = 1_000
    idempotency_keys: Number = 100_000
    idempotency_ttl: Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)] = 86_400

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys, each of which opens the API; none: it is open."""
        text = self.keys.get_secret_value() if self.keys else ""
        return tuple(key.strip() for key in text.split(",") if key.strip())

    @property
    def named_hosts(self) -> tuple[str, ...]:
        """The hosts of the settings."""
        return tuple(filter(None, (self.allowed_hosts or "").split(",")))

    @property
    def hosts(self) -> tuple[str, ...]:
        """What may be the host of a request beside this machine's own names: those, and the address that it listens on."""
        everywhere = self.host in {"", "0.0.0.0", "::"}  # noqa: S104  # all addresses are no name
        return self.named_hosts if everywhere else (self.host, *self.named_hosts)


class Metrics(_Section):
    """Where a worker serves its metrics; nowhere without a port."""

    port: Port | None = None
    host: str = "127.0.0.1"


class Log(_Section):
    """What the long-running commands write to stderr, and in which form."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = "auto"


class Local(_Section):
    """The broker and the registry that `python -m pipeline.local` starts."""

    kafka_port: Port = 9092
    registry_port: Port = 8081
    dir: File | None = None
    cache_dir: File | None = None


class Settings(_Section):
    """The tree. Made by `load()`; frozen."""

    kafka: Kafka = Kafka()
    consume: Consume = Consume()
    retry: Retry = Retry()
    registry: Registry = Registry()
    schemas: Schemas = Schemas()
    topics: Topics = Topics()
    store: Store = Store()
    forward: Forward = Forward()
    api: Api = Api()
    metrics: Metrics = Metrics()
    log: Log = Log()
    local: Local = Local()


class Row(NamedTuple):
    """A line of `python -m pipeline.config show`; the value is masked if it is secret, None if there is none."""

    name: str
    value: str | float | None
    origin: str


Say = Callable[[str], str]
Contradiction = tuple[tuple[str, ...], str]

# What a command works with: only what contradicts itself there refuses it.
KAFKA: Final = "kafka"
REGISTRY: Final = "registry"
STORE: Final = "store"
WORKER: Final = "consume"
FORWARD: Final = "forward"
ALL: Final = frozenset({KAFKA, REGISTRY, STORE, WORKER, FORWARD})
CONSUMES: Final = ALL - {FORWARD}
FORWARDS: Final = ALL - {WORKER, STORE}
WITH_SCHEMAS: Final = frozenset({KAFKA, REGISTRY})


def load(overrides: Mapping[str, object] | None = None, uses: Collection[str] = ALL) -> Settings:
    """The settings of this run; `overrides` are flags by dotted name (`{"kafka.topic": "x"}`), None meaning not given.

    Raises `SettingsRefused` with everything that is wrong, each by the name the user wrote, and no secret in it; of what
    contradicts each other only what concerns one of `uses`.
    """
    return _load(overrides or {}, uses).settings


def show(overrides: Mapping[str, object] | None = None) -> tuple[Settings, list[Row]]:
    """`load()`, and for each setting, in the order of the tree, its value and where it came from."""
    loaded = _load(overrides or {}, (KAFKA, REGISTRY), tell_all=True)
    settings, given = loaded.settings, loaded.given
    rows = []
    for name in [*dict(names(Settings)), *(f"{EXTRA}{key}" for key in sorted(settings.kafka.extra))]:
        value = _value(settings, name)
        source = given.get(name)
        origin = "default" if source is None else source.origin
        if source and source.name != name:
            origin += f" {source.name}"
        plain = value is None or isinstance(value, int | float)  # bool too: an int to Python
        rows.append(Row(name, value if plain else shown(name, value), origin))
    rows += [Row(key, None, f"{path} ({PASSED_OVER})") for key, path in loaded.passed_over.items()]
    return settings, rows


def refusals(overrides: Mapping[str, object] | None = None) -> list[str]:
    """What `show` lets pass although some command will be refused for it, each with the commands it concerns."""
    return _load(overrides or {}, (KAFKA, REGISTRY)).others


class _Loaded(NamedTuple):
    settings: Settings
    given: dict[str, Given]
    passed_over: dict[str, str]
    others: list[str]


def _load(overrides: Mapping[str, object], uses: Collection[str], *, tell_all: bool = False) -> _Loaded:
    given, problems, passed_over = read(Settings, overrides)
    settings, malformed = build(Settings, given)
    problems += malformed.values()

    def say(name: str) -> str:
        value = _value(settings, name)
        if value is None:
            return f"{name} (not set)"
        source = given.get(name, Given(value, name, "default"))
        return written(name, source._replace(value=value))

    others = []
    for concern, (about, text) in _contradictions(settings, say, given):
        # A malformed setting has its default here: what that contradicts is nobody's business.
        if not malformed.keys().isdisjoint(about):
            continue
        if concern in uses:
            problems.append(text)
        else:
            others.append(f"{concern}: {text}")
    if problems:
        problems += [text.partition(": ")[2] for text in others] if tell_all else []
        listed = "".join(f"\n  - {problem}" for problem in dict.fromkeys(problems))
        raise SettingsRefused(f"The settings are refused (docs/reference/settings.md lists them all):{listed}")
    if passed_over:
        _log.info("Keys of Java's client alone, passed over: %s", ", ".join(passed_over))
    return _Loaded(settings, given, passed_over, others)


def _value(settings: Settings, name: str) -> Any:
    if name.startswith(EXTRA):
        return settings.kafka.extra[name.removeprefix(EXTRA)]
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _contradictions(settings: Settings, say: Say, given: Mapping[str, Given]) -> Iterator[tuple[str, Contradiction]]:
    """What is good by itself but not together: whom it concerns, the names it is about, and what to say of it."""
    kafka, forward = settings.kafka, settings.forward
    for concern in (WORKER, FORWARD):
        yield from ((concern, each) for each in _dead_letters(kafka, say))
    yield from ((WORKER, each) for each in _retry_names(settings, "kafka.consumer_group", kafka.consumer_group, say))
    yield from ((FORWARD, each) for each in _retry_names(settings, "forward.group", forward.group, say))
    for concern in (WORKER, FORWARD):
        yield from ((concern, each) for each in _back_off(settings.retry, say))
    yield from ((FORWARD, each) for each in _forward(settings, say))
    for checked in (_sasl(kafka.security, say), _encryption(kafka, say), _extra(kafka, say)):
        yield from ((KAFKA, each) for each in checked)
    yield from ((REGISTRY, each) for each in _registry(settings.registry, say))
    for secret, address in borrowed(given):
        concern = REGISTRY if address.startswith("registry.") else KAFKA
        why = f"{say(address)} would get {secret} of {given[secret].origin}: whoever may write a .env here would be sent it"
        yield concern, ((secret, address), f"{why}. Give the address where the secret is given, or the secret in .env")


def _dead_letters(kafka: Kafka, say: Say) -> Iterator[Contradiction]:
    if kafka.topic == kafka.dead_letter_topic:
        topics = ("kafka.topic", "kafka.dead_letter_topic")
        yield topics, f"{say(topics[0])} and {say(topics[1])} are one topic: give the dead letters their own"


def _forward(settings: Settings, say: Say) -> Iterator[Contradiction]:
    for other in ("kafka.topic", "kafka.dead_letter_topic"):
        if settings.forward.topic == _value(settings, other):
            both = ("forward.topic", other)
            yield both, f"{say(both[0])} is {say(both[1])}: give what is forwarded a topic of its own"
    if settings.forward.commit_interval_s * 1000 >= settings.forward.transaction_timeout_ms:
        both = ("forward.commit_interval_s", "forward.transaction_timeout_ms")
        yield both, f"{say(both[0])} is not below {say(both[1])}: every transaction would time out"


def _retry_names(settings: Settings, name: str, group: str, say: Say) -> Iterator[Contradiction]:
    names_ = ("kafka.topic", name, "retry.tiers")
    for delay in settings.retry.delays[-1:]:
        try:
            _topic_name(topic_name(settings.kafka.topic, group, delay))
        except ValueError:
            mend = "use letters, digits, '.', '_' and '-' only, and fewer of them, or set retry.tiers to none"
            yield names_, f"{say(names_[0])} and {say(names_[1])} give the retry topics no possible name: {mend}"


def _back_off(retry: Retry, say: Say) -> Iterator[Contradiction]:
    if retry.backoff_s > retry.backoff_max_s:
        both = ("retry.backoff_s", "retry.backoff_max_s")
        yield both, f"{say(both[0])} is more than {say(both[1])}"


def _extra(kafka: Kafka, say: Say) -> Iterator[Contradiction]:
    for key, value in kafka.extra.items():
        if reason := client_properties.why_reserved(key, value):
            yield (f"{EXTRA}{key}",), f"{say(f'{EXTRA}{key}')} {reason}"


def _sasl(security: Security, say: Say) -> Iterator[Contradiction]:
    use, protocol, mechanism, user, password = (
        f"kafka.security.{name}" for name in ("use_sasl", "protocol", "mechanism", "user", "password")
    )
    if security.use_sasl and not security.protocol.startswith("SASL_"):
        yield (use, protocol), f"{say(use)} and {say(protocol)} disagree: set {protocol} to SASL_SSL, or {use} to false"
    if not security.use_sasl and security.protocol.startswith("SASL_"):
        yield (use, protocol), f"{say(protocol)} and {say(use)} disagree: set {use} to true, or {protocol} to SSL"
    for name, value in ((user, security.user), (password, security.password)):
        if security.use_sasl and value is None and security.mechanism != "OAUTHBEARER":
            yield (use, mechanism, name), f"{say(use)} with {say(mechanism)} needs {name}, which is not set"
        if not security.use_sasl and value is not None:
            yield (use, name), f"{say(name)} is given but {say(use)}: set {use} to true, or leave {name} out"


def _encryption(kafka: Kafka, say: Say) -> Iterator[Contradiction]:
    security = kafka.security
    servers, protocol, mechanism, ca = (
        "kafka.bootstrap_servers",
        "kafka.security.protocol",
        "kafka.security.mechanism",
        "kafka.security.ca_location",
    )
    hosts = [server.rpartition(":")[0] for server in kafka.bootstrap_servers.split(",")]
    in_clear = security.protocol == "SASL_PLAINTEXT" and security.mechanism in {"PLAIN", "OAUTHBEARER"}
    if in_clear and not all(map(is_loopback, hosts)):
        over = f"{say(mechanism)} over {say(protocol)} sends the secret unencrypted to {say(servers)}"
        mend = f"set {protocol} to SASL_SSL, or {mechanism} to SCRAM-SHA-512"
        yield (servers, protocol, mechanism), f"{over}: {mend}"
    if security.ca_location is not None:
        if not security.protocol.endswith("SSL"):
            yield (ca, protocol), f"{say(ca)} is of no use with {say(protocol)}: set {protocol} to SSL or SASL_SSL"
        yield from _missing(ca, security.ca_location, say)


def _registry(registry: Registry, say: Say) -> Iterator[Contradiction]:
    url, user, password, ca = (f"registry.{name}" for name in ("url", "user", "password", "ca_location"))
    if (registry.user is None) != (registry.password is None):
        yield (user, password), f"{say(user)} and {say(password)} go together: set both or none"
    parts = urlsplit(registry.url)
    if parts.scheme == "http" and registry.user is not None and not is_loopback(parts.hostname or ""):
        yield (url, user), f"{say(user)} would be sent unencrypted to {say(url)}: use an https:// URL"
    if registry.ca_location is not None:
        if parts.scheme == "http":
            yield (ca, url), f"{say(ca)} is of no use with {say(url)}: use an https:// URL"
        yield from _missing(ca, registry.ca_location, say)


def _missing(name: str, path: Path, say: Say) -> Iterator[Contradiction]:
    if not path.exists():
        yield (name,), f"{say(name)}: there is no such file ({path.absolute()})"
