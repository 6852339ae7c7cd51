"""A pydantic model's validation of what the Avro reader gives: what the reader's schema guarantees is not checked again.

pydantic counts the digits of a `Decimal` in Python and looks for keys that a model forbids; for a datum that was just read
by a schema of as many digits and of known fields both are half of the time that validation takes. The model's own core
schema is taken, those checks left out of it, and given to pydantic-core: the same model comes out of it, and whatever the
schema leaves open (a length, a pattern, a bound, a null) is checked as before.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import SchemaValidator, core_schema

from pipeline.core.record import KeepsTyped
from pipeline.serde.avro_schema import Json, resolve

_Core = Mapping[str, Any]


def validator(model: type[BaseModel], reader_schema: Mapping[str, Json] | None = None) -> Callable[[Any], Any]:
    """What `model_validate` does, without the checks of arguments that are not given.

    With the schema of a record, it does so for data of exactly its types, and may take others as they are.
    """
    plain: Callable[[Any], Any] = model.model_validate
    if getattr(plain, "__func__", None) is not BaseModel.model_validate.__func__:  # type: ignore[attr-defined]
        return plain
    lean = _lean(model, reader_schema) if reader_schema is not None else None
    # pydantic-core would take what is built of the model already, were it not told otherwise.
    return (SchemaValidator(lean, _use_prebuilt=False) if lean else model.__pydantic_validator__).validate_python


def spellings(model: type[BaseModel], name: str, info: FieldInfo) -> Iterator[str]:
    """The keys under which the model finds a field in a datum."""
    config = model.model_config
    alias = info.validation_alias
    if alias is None or config.get("validate_by_name") or config.get("populate_by_name"):
        yield name
    if not config.get("validate_by_alias", True):
        return
    for one in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(one, AliasPath):
            yield str(one.path[0])
        elif one is not None:
            yield one


def _lean(model: type[BaseModel], reader_schema: Mapping[str, Json]) -> Any:
    """The model's core schema without what is guaranteed; None where the model is more than its fields."""
    core: _Core = model.__pydantic_core_schema__
    inner = core.get("schema", {})
    if core["type"] != "model" or inner.get("type") != "model-fields" or core.get("custom_init"):
        return None
    resolved = resolve(dict(reader_schema))
    types = {field["name"]: resolved.definition(field["type"]) for field in reader_schema["fields"]}
    # By which key of the datum each field is found; None where it is by none, or by one of several.
    keys = {name: _only(set(spellings(model, name, info)) & types.keys()) for name, info in model.model_fields.items()}
    fields = {
        name: {**field, "schema": core_schema.any_schema()}
        if (key := keys.get(name)) and _is_guaranteed(field["schema"], types[key], model.model_fields[name])
        else field
        for name, field in inner["fields"].items()
    }
    lean = {**core, "schema": {**inner, "fields": fields}}
    config = core.get("config", {})
    # Not where they are allowed: such a model has a place for them, even when there are none.
    if config.get("extra_fields_behavior") == "forbid" and set(keys.values()) >= types.keys():
        lean["config"] = {**config, "extra_fields_behavior": "ignore"}
    return lean


def _only(found: set[str]) -> str | None:
    return found.pop() if len(found) == 1 else None


def _is_guaranteed(check: _Core, avro: Any, info: FieldInfo) -> bool:
    """Whether every value of the Avro type passes this check unchanged."""
    if check["type"] == "function-plain" and any(isinstance(each, KeepsTyped) for each in info.metadata):
        check = check["json_schema_input_schema"]
    logical = avro.get("logicalType") if isinstance(avro, dict) else None
    kinds = {"decimal": _DECIMAL, "timestamp-millis": _TIME, "timestamp-micros": _TIME}
    kind, known = kinds.get(logical or "", ("", frozenset()))
    if check["type"] != kind or check.keys() - known or check.get("tz_constraint", "aware") != "aware":
        return False
    return kind == "datetime" or _has_room(check, int(avro["precision"]), int(avro.get("scale", 0)))


def _has_room(check: _Core, precision: int, scale: int) -> bool:
    """For all digits of the Avro type, before the point and after it."""
    decimals = check.get("decimal_places", scale)
    return bool(check.get("max_digits", precision) >= max(precision, scale) and decimals >= scale) and bool(
        check.get("max_digits", precision) - decimals >= precision - scale
    )


# pydantic-core's names, with what may stand beside them and leave a Decimal, or a time in UTC, as it is.
_SAYS_NOTHING = frozenset({"type", "strict", "metadata", "serialization", "ref"})
_DECIMAL = ("decimal", _SAYS_NOTHING | {"max_digits", "decimal_places", "allow_inf_nan"})
_TIME = ("datetime", _SAYS_NOTHING | {"tz_constraint", "microseconds_precision"})
