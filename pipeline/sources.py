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
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, TomlConfigSettingsSource

from pipeline.core import client_properties

PREFIX = "PIPELINE_"
EXTRA = "kafka.extra."
PROPERTIES_FILE = "KAFKA_CONFIG_FILE"
MASK = "••••"

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
    if name.endswith(".url") or name == "kafka.bootstrap_servers":
        scheme, slashes, rest = text.rpartition("://")
        masked = "@" in rest or "?" in rest or (secret and not slashes)
        return f"{scheme}{slashes}{MASK}" if masked else text
    return MASK if secret or (name.startswith(EXTRA) and client_properties.is_secret(name)) else text


def read(tree: type[BaseModel], overrides: Mapping[str, object]) -> tuple[dict[str, Given], list[str]]:
    """Ask every source and let the first that knows a name win; what cannot be read or is unknown is a problem."""
    problems: list[str] = []
    environment = _variables(EnvSettingsSource(BaseSettings), "environment")
    dotenv = _attempt(problems, ".env", _dotenv)
    toml = _attempt(problems, "pipeline.toml", _toml)
    in_dotenv = dotenv.pop(PROPERTIES_FILE, None)
    named_by = environment.pop(PROPERTIES_FILE, in_dotenv)
    flags = {name: Given(value, name, "flag") for name, value in overrides.items() if value is not None}
    layers = [flags, environment, dotenv, toml]
    if named_by:
        path = expanded(Path(str(named_by.value)))
        layers.append(_attempt(problems, f"{PROPERTIES_FILE}={path}", lambda: _properties(path, problems)))
    merged: dict[str, Given] = {}
    for layer in reversed(layers):
        merged |= layer
    unknown = _unknown(merged, [name for name, _ in names(tree)])
    return {name: one for name, one in merged.items() if name not in unknown}, [*problems, *unknown.values()]


def build(tree: type[Tree], given: Mapping[str, Given]) -> tuple[Tree, dict[str, str]]:
    """The settings, with its default in place of each malformed one, and by name what is wrong with those."""
    annotations = dict(names(tree))
    malformed = {
        name: f"{one.name} ({one.origin}) is empty: give it a value or leave it out"
        for name, one in given.items()
        if not name.startswith(EXTRA) and not str(one.value).strip()
    }
    try:
        return tree(**_nested(given, malformed)), malformed
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = ".".join(map(str, one["loc"]))
            reason = str(one["ctx"]["error"]) if one["type"] == "value_error" else one["msg"]
            malformed[name] = f"{written(name, given[name], annotations.get(name))}: {reason}"
    return tree(**_nested(given, malformed)), malformed


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
            given[name] = Given(value or "", name, origin)
        elif name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(f"{name}={value or ''}"):
            given[_setting(lower)] = Given(value or "", name, origin)
    return given


def _setting(lower: str) -> str:
    parts = lower.removeprefix(PREFIX.lower())
    head, extra, key = parts.partition("kafka__extra__")
    if extra and not head:
        return EXTRA + key.replace("__", "\0").replace("_", ".").replace("\0", "_")
    return parts.replace("__", ".")


def _dotenv() -> dict[str, Given]:
    return _variables(DotEnvSettingsSource(BaseSettings, ".env", "utf-8-sig"), ".env")


def _toml() -> dict[str, Given]:
    table = TomlConfigSettingsSource(BaseSettings, Path("pipeline.toml")).toml_data
    return {name: Given(value, name, "pipeline.toml") for name, value in _flat(table)}


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names of the leaves, so that `linger.ms = 5` and `"linger.ms" = 5` mean the same."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _properties(path: Path, problems: list[str]) -> dict[str, Given]:
    found = client_properties.parse(path.read_text(encoding="utf-8-sig"))
    problems += [f"{path}: {problem}" for problem in found.problems]
    return {name: Given(value, found.written[name], str(path)) for name, value in found.values.items()}
