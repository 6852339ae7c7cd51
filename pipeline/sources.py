"""What the user gave, source by source: under which setting, in which words, and where.

Every source becomes a flat mapping from the dotted name of a setting to what was given for it; the first source that
knows a name wins. What no setting is named after, or does not fit its type, is told in the user's own words. Which
settings exist is the tree's business (`pipeline.settings`).
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from pipeline.core import addresses, client_properties

PREFIX = "PIPELINE_"
EXTRA = "kafka.extra."
PROPERTIES_FILE = "KAFKA_CONFIG_FILE"
MASK = addresses.HIDDEN
# Secrets, and where each is sent.
_SENT_TO = (
    ("registry.password", "registry.url"),
    ("registry.user", "registry.url"),
    ("kafka.security.password", "kafka.bootstrap_servers"),
    (f"{EXTRA}sasl.oauthbearer.client.secret", f"{EXTRA}sasl.oauthbearer.token.endpoint.url"),
    (f"{EXTRA}sasl.oauthbearer.client.credentials.client.secret", f"{EXTRA}sasl.oauthbearer.token.endpoint.url"),
)
PASSED_OVER = "passed over: of Java's client alone"

Tree = TypeVar("Tree", bound=BaseModel)

# Kubernetes writes the address of every service of the namespace into the environment: a service named `pipeline` (or
# `pipeline-api`) becomes PIPELINE_PORT=tcp://10.0.0.1:80 and its like. Nobody set them, so nobody is to blame for them.
# `*_PORT` counts only with such a value, or PIPELINE_LOCAL_KAFKA_PORT=9192 (one `_` too few) would be overlooked.
_SERVICE_LINK = re.compile(
    r"PIPELINE_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d*|PORT=(tcp|udp|sctp)://.*"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*)"
)


class Given(NamedTuple):
    """A value as it was given: the `name` in the user's words and the `origin` it stands in."""

    value: object
    name: str
    origin: str
    planted: bool = False
    """It stands in `.env`, or in a file that `.env` names: whoever may write into the current folder gave it."""


def expanded(path: Path) -> Path:
    """`~` as a shell would have it; unlike `Path.expanduser`, a user nobody knows stays as written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def names(tree: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the annotation of every setting, in the order of the tree; `kafka.extra` is none itself."""
    for name, field in tree.model_fields.items():
        dotted = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, f"{dotted}.")
        elif f"{dotted}." != EXTRA:
            yield dotted, field.annotation


def env_name(setting: str) -> str:
    """The environment name of a setting; in librdkafka's keys `.` becomes `_`, and `_` `__`, as in Kafka's images.

    So every key can be given in a shell, whose names hold no dot.
    """
    if setting.startswith(EXTRA):
        key = setting.removeprefix(EXTRA).replace("_", "__").replace(".", "_")
        return f"{PREFIX}KAFKA__EXTRA__{key.upper()}"
    return PREFIX + setting.replace(".", "__").upper()


def shown(name: str, value: object, annotation: object = None) -> str:
    """A value as it may be printed: secrets are masked, and so is an address that has a user or a query."""
    if isinstance(value, SecretStr):
        value, annotation = value.get_secret_value(), SecretStr
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if text.isprintable() else repr(text)
    secret = annotation is SecretStr or SecretStr in get_args(annotation)
    scheme, slashes, _ = text.partition("://")
    is_address = name.endswith(".url") or name == "kafka.bootstrap_servers"
    if (is_address or slashes) and addresses.has_secret_part(text):
        return f"{scheme}{slashes}{MASK}" if is_address and slashes else MASK
    if is_address and (slashes or not secret):
        return text
    return MASK if secret or (name.startswith(EXTRA) and client_properties.is_secret(name)) else text


class Read(NamedTuple):
    """What the sources gave by name, what is wrong with them, and keys of a properties file that only Java's client has."""

    given: dict[str, Given]
    problems: list[str]
    passed_over: dict[str, str]


def read(tree: type[BaseModel], overrides: Mapping[str, object]) -> Read:
    """Ask every source and let the first that knows a name win; what cannot be read or is unknown is a problem."""
    problems: list[str] = []
    passed_over: dict[str, str] = {}
    environment = _variables(EnvSettingsSource(BaseSettings), "environment")
    problems += _quoted(environment)
    dotenv = _attempt(problems, ".env", lambda: _dotenv(problems))
    toml = _attempt(problems, "pipeline.toml", _toml)
    in_dotenv = dotenv.pop(PROPERTIES_FILE, None)
    named_by = environment.pop(PROPERTIES_FILE, in_dotenv)
    flags = {name: Given(value, name, "flag") for name, value in overrides.items() if value is not None}
    layers = [flags, environment, dotenv, toml]
    if named_by:
        path = expanded(Path(str(named_by.value)))
        planted = in_dotenv if named_by is in_dotenv else None
        read_file = partial(_properties, path, problems, passed_over, planted=planted is not None)
        layers.append(_attempt(problems, f"{PROPERTIES_FILE}={path}", read_file))
    merged: dict[str, Given] = {}
    for layer in reversed(layers):
        merged |= layer
    unknown = _unknown(merged, [name for name, _ in names(tree)])
    known = {name: one for name, one in merged.items() if name not in unknown}
    return Read(known, [*problems, *unknown.values()], passed_over)


def build(tree: type[Tree], given: Mapping[str, Given]) -> tuple[Tree, dict[str, str]]:
    """The settings, with its default in place of each malformed one, and by name what is wrong with those."""
    annotations = dict(names(tree))
    given = {name: _cleaned(name, one, annotations.get(name)) for name, one in given.items()}
    malformed = {
        name: f"{one.name} ({one.origin}) is empty: give it a value or leave it out"
        for name, one in given.items()
        if not name.startswith(EXTRA) and not str(one.value).strip()
    }
    try:
        built = tree(**_nested(given, malformed))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = ".".join(map(str, one["loc"]))
            reason = str(one["ctx"]["error"]) if one["type"] == "value_error" else one["msg"]
            malformed[name] = f"{written(name, given[name], annotations.get(name))}: {reason}"
        built = tree(**_nested(given, malformed))
    for name, value in _texts(built.model_dump()):
        if name in given and value != value.strip():
            malformed.setdefault(
                name, f"{given[name].name} ({given[name].origin}) begins or ends with a blank: leave it out"
            )
    return tree(**_nested(given, malformed)), malformed


def _cleaned(name: str, given: Given, annotation: object) -> Given:
    """A secret without the end of the line of the file that it was read from, which is no part of it."""
    secret = annotation is SecretStr or SecretStr in get_args(annotation)
    secret = secret or (name.startswith(EXTRA) and client_properties.is_secret(name))
    if secret and isinstance(given.value, str):
        return given._replace(value=given.value.removeprefix("\ufeff").rstrip("\r\n"))
    return given


def _texts(built: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """By dotted name, every setting that is a text and no secret."""
    for key, value in built.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value


def written(name: str, given: Given, annotation: object = None) -> str:
    """The setting in the user's words, as it may be printed."""
    return f"{given.name}={shown(name, given.value, annotation)} ({given.origin})"


def _nested(given: Mapping[str, Given], without: Mapping[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, one in given.items():
        if name not in without:
            key = name.removeprefix(EXTRA)
            *path, leaf = name.split(".") if key == name else ("kafka", "extra", key)
            section = nested
            for part in path:
                section = section.setdefault(part, {})
            section[leaf] = one.value
    return nested


def borrowed(given: Mapping[str, Given]) -> Iterator[tuple[str, str]]:
    """A secret of the environment (or of a flag) and the address in `.env` that it would be sent to."""
    for secret, address in _SENT_TO:
        held, to = given.get(secret), given.get(address)
        if held is not None and to is not None and to.planted and held.origin in {"environment", "flag"}:
            yield secret, address


def _unknown(given: Mapping[str, Given], known: list[str]) -> dict[str, str]:
    """By name, what no setting is called and which one was probably meant; never its value, it may be a secret."""
    problems = {}
    for name, one in given.items():
        if name in known or (name.startswith(EXTRA) and name != EXTRA):
            continue
        inside = [other for other in [*known, f"{EXTRA}client.rack"] if other.startswith(f"{name}.")]
        near = inside[0] if inside else _nearest(name, known)
        meant = env_name(near) if near and one.name.startswith(PREFIX) else near
        if inside:
            problems[name] = f"{one.name} ({one.origin}) is a section: name one of its settings, such as {meant}"
        else:
            hint = f": did you mean {meant}?" if meant else ""
            problems[name] = f"{one.name} ({one.origin}) is not a setting{hint}"
    return problems


def _nearest(name: str, known: list[str]) -> str:
    """The last part is what people remember (`PIPELINE_TOPIC`), so a setting that ends alike goes before one alike."""
    ends = difflib.get_close_matches(_end(name), {_end(other) for other in known}, cutoff=0.8)
    alike = [other for other in known if _end(other) in ends]
    return "".join(difflib.get_close_matches(name, alike or known, n=1, cutoff=0 if alike else 0.5))


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def _attempt(problems: list[str], what: str, source: Callable[[], dict[str, Given]]) -> dict[str, Given]:
    try:
        return source()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The text of a UnicodeDecodeError is harmless, its `object` would be the whole file.
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(f"{what} cannot be read: {reason}")
        return {}


def _variables(source: EnvSettingsSource, origin: str) -> dict[str, Given]:
    """The names that are meant for the pipeline; the source has them in lower case."""
    given = {}
    for lower, value in source.env_vars.items():
        name = lower.upper()
        if name == PROPERTIES_FILE:
            given[name] = Given((value or "").strip(), name, origin)
        elif name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(f"{name}={value or ''}"):
            given[_setting(lower)] = Given(value or "", name, origin)
    return given


def _setting(lower: str) -> str:
    parts = lower.removeprefix(PREFIX.lower())
    head, extra, key = parts.partition("kafka__extra__")
    if extra and not head:
        return EXTRA + key.replace("__", "\0").replace("_", ".").replace("\0", "_")
    return parts.replace("__", ".")


def _quoted(environment: Mapping[str, Given]) -> Iterator[str]:
    """What came with its quotes, as from an env-file of Docker's: nobody means them, and a password would be another."""
    for one in environment.values():
        text = str(one.value).strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            yield (
                f"{one.name} ({one.origin}) holds quotes around its value: leave them out. A shell takes them away, an "
                "env-file does not. Quotes that belong to it can be given in .env or pipeline.toml"
            )


def _dotenv(problems: list[str]) -> dict[str, Given]:
    path = Path(".env")
    if path.is_file():
        problems += _dotenv_problems(path.read_text(encoding="utf-8-sig"))
    found = _variables(DotEnvSettingsSource(BaseSettings, path, "utf-8-sig"), ".env")
    return {name: one._replace(planted=True) for name, one in found.items()}


def _dotenv_problems(text: str) -> Iterator[str]:
    """Lines that would be passed over, and `${NAME}` of nothing, which would be replaced by nothing: never a value."""
    bindings = list(parse_stream(StringIO(text)))
    there = {binding.key for binding in bindings if binding.key}
    for binding in bindings:
        line = binding.original.line
        if binding.error:
            yield f".env line {line} is not NAME=VALUE"
        elif (binding.key or "").upper().startswith(PREFIX):
            for atom in parse_variables(binding.value or ""):
                if isinstance(atom, Variable) and atom.default is None and atom.name not in there | os.environ.keys():
                    yield f".env line {line}: {binding.key} refers to a name in ${{…}} that is not set"


def _toml() -> dict[str, Given]:
    path = Path("pipeline.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    return {name: Given(value, name, "pipeline.toml") for name, value in _flat(table)}


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names of the leaves, so that `linger.ms = 5` and `"linger.ms" = 5` mean the same."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _properties(path: Path, problems: list[str], passed_over: dict[str, str], *, planted: bool) -> dict[str, Given]:
    content = path.read_bytes()
    where = f"{path}:"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, where = content.decode("latin-1"), f"{path} cannot be read as UTF-8, and as Latin-1, which Java takes,"
    if "\0" in text:
        problems.append(f"{path} cannot be read: it is no text, or in UTF-16. Write it as UTF-8")
        return {}
    found = client_properties.parse(text)
    problems += [f"{where} {problem}" for problem in found.problems]
    passed_over |= dict.fromkeys(found.passed_over, str(path))
    return {name: Given(value, found.written[name], str(path), planted) for name, value in found.values.items()}
