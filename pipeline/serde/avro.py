"""Avro data to bytes and back, with the writer's schema from the frame and the reader's from the schema files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from itertools import chain, islice
from threading import Thread
from typing import TYPE_CHECKING, Any

import fastavro
from fastavro.validation import ValidationError, validate

from pipeline.core.failures import ERROR_CHARACTERS_MAX
from pipeline.errors import Invalid, OtherEvent, Undecodable
from pipeline.serde import schema_files, wire
from pipeline.serde.avro_schema import as_written
from pipeline.serde.compiled_reader import Read, ReadRun, compile_read, compile_run, compile_scan
from pipeline.serde.compiled_writer import compile_write
from pipeline.serde.fastavro_schema import for_fastavro

if TYPE_CHECKING:
    from pipeline.serde.columns import Columns

Datum = dict[str, Any]
# So many are read at once: what is read stays in the cache until it is made use of.
RUN_MAX = 1000
# Of fewer data arrays are slower than the walk.
COLUMNS_MIN = 250
# Schemas of so many characters are kept ready; each takes some twenty bytes of memory for one.
KEPT_CHARACTERS_MAX = 4 << 20
REFUSALS_MAX = 1_000
_BODY = wire.HEADER_BYTES


def load_ahead() -> None:
    """Load what long runs are read with while the caller waits for others: a tenth of a second of processor time."""
    Thread(target=import_module, args=("pipeline.serde.columns",), name="load ahead").start()


class AvroWriter:
    """Writes data of one registered schema, byte for byte as the client's own `AvroSerializer` does."""

    def __init__(self, schema: Mapping[str, Any], schema_id: int) -> None:
        self._schema: Any = for_fastavro(dict(schema))
        self._header = wire.header(schema_id)
        self._write = compile_write(dict(schema), self._header) or self._write_any
        self.schema_id = schema_id

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        """The framed bytes; `Invalid` when the datum does not fit the schema: no number is rounded, no field left out."""
        try:
            return self._write(datum)
        except Exception:  # noqa: BLE001  # says only that the datum is none of the usual ones
            return self._write_any(datum)

    def _write_any(self, datum: Mapping[str, Any]) -> bytes:
        out = BytesIO()
        out.write(self._header)
        try:
            fastavro.schemaless_writer(out, self._schema, datum, strict_allow_default=True)
            # It wrote 1.5 and True as the int 1, and an int of more than 32 bits as no reader takes it.
            validate(datum, self._schema)
        except ValidationError as error:
            raise Invalid(f"The datum does not fit its schema: {_misfits(error)}") from error
        except Exception as error:
            # fastavro reports a datum that does not fit by ValueError, TypeError, KeyError, OverflowError, ...
            raise Invalid(f"The datum does not fit its schema: {error}") from error
        return out.getvalue()


class AvroReader:
    """Reads framed data of any schema a writer registered, as the one reader schema sees them.

    `schema_by_id` gives the text of the writer schema of an id; what it raises (`SchemaUnknown`, `RegistryUnavailable`)
    passes through. Each id is asked for once, whether its schema can be read or not; again only when so many others came
    since that it was forgotten (`KEPT_CHARACTERS_MAX`, `REFUSALS_MAX`).
    """

    def __init__(self, reader_schema: Mapping[str, Any], schema_by_id: Callable[[int], str]) -> None:
        self._reader: Any = for_fastavro(dict(reader_schema))
        self._schema_by_id = schema_by_id
        # By the frame as it stands there: its number is told only where it is not known yet.
        self._reads: dict[bytes, Read] = {}
        self._runs: dict[bytes, ReadRun] = {}
        self._schemas: dict[bytes, Any] = {}
        self._columns: dict[bytes, Columns | None] = {}
        # Those that give exactly the reader's types.
        self._typed: dict[bytes, Read] = {}
        self._refusals: dict[int, tuple[type[Undecodable], str]] = {}
        # How many characters each schema has that is kept ready, the oldest first.
        self._kept: dict[bytes, int] = {}

    def decode(self, value: bytes | None) -> Datum:
        """The datum; `Undecodable` when the bytes are not exactly one datum of the schema that they name."""
        try:
            return self._reads[value[:_BODY]](value, _BODY)  # type: ignore[index, arg-type, no-any-return]
        except Exception:  # noqa: BLE001, S110  # None, a schema that is not known yet, or no datum of it
            pass
        return self._look_closer(value)

    def decode_run(self, values: Iterable[bytes | None]) -> Iterator[Datum]:
        """The datum of each value as long as all goes well; each has exactly the types of the reader's schema.

        It ends with an exception where that is not so, or where a schema is not known yet: `decode` tells which.
        """
        rest: Iterator[Any] = iter(values)
        return chain.from_iterable(map(self._part, iter(lambda: list(islice(rest, RUN_MAX)), [])))

    def _part(self, values: list[Any]) -> Iterable[Datum]:
        # Of several schemas most data have one as a rule: the others go one by one.
        run = self._runs.get(frame := values[0][:_BODY])
        if run is None:
            return map(self._known, values)
        if len(values) >= COLUMNS_MIN and (columns := self._columns_of(frame)) is not None:
            with suppress(Exception):
                return columns.read(values, frame)
        return run(values, frame, self._known)

    def _columns_of(self, frame: bytes) -> "Columns | None":
        if frame not in self._columns:
            # Not with this module: who writes or reads little has no need of numpy.
            from pipeline.serde.columns import Columns, Unusual  # noqa: PLC0415

            self._columns[frame] = None
            with suppress(Unusual):
                self._columns[frame] = Columns(self._schemas[frame])
        return self._columns[frame]

    def _known(self, value: Any) -> Datum:
        datum: Datum = self._typed[value[:_BODY]](value, _BODY)
        return datum

    def _look_closer(self, value: bytes | None) -> Datum:
        read = self._read_for(value)
        try:
            return read(value, _BODY)  # type: ignore[no-any-return, arg-type]  # a record schema, see _resolved
        except Undecodable:
            raise
        except Exception as error:
            # What has the right shape may still be no text, time or number: ValueError, OverflowError, ...
            schema_id = wire.schema_id_of(value)
            raise Undecodable(f"The bytes are no datum of schema {schema_id}: {_words(error)}") from error

    def _read_for(self, value: bytes | None) -> Read:
        """What reads data of the schema that is named there."""
        schema_id = wire.schema_id_of(value)
        known = self._reads.get(wire.header(schema_id))
        if known is not None:
            return known
        if schema_id not in self._refusals:
            text = self._schema_by_id(schema_id)
            try:
                found = self._reads[wire.header(schema_id)] = self._resolved(schema_id, text)
            except Undecodable as error:
                # Kept, because it may take seconds to find out, and the next record names the same schema.
                self._refusals[schema_id] = type(error), str(error)[:ERROR_CHARACTERS_MAX]
                if len(self._refusals) > REFUSALS_MAX:
                    del self._refusals[next(iter(self._refusals))]
            else:
                self._keep(wire.header(schema_id), len(text))
                return found
        kind, words = self._refusals[schema_id]
        raise kind(words)

    def _keep(self, frame: bytes, size: int) -> None:
        """A flood of schemas must not fill the memory."""
        self._kept[frame] = size
        while sum(self._kept.values()) > KEPT_CHARACTERS_MAX and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            for of in (self._kept, self._reads, self._runs, self._schemas, self._columns, self._typed):
                of.pop(oldest, None)

    def _resolved(self, schema_id: int, text: str) -> Read:
        """Equal schemas need no resolution, and so no fastavro."""
        if len(text) > schema_files.MAX_BYTES:
            # No schema file is so large; one of 6 MB takes half a minute and 4 GB to get ready for.
            raise Undecodable(f"Schema {schema_id} has {len(text)} characters, more than {schema_files.MAX_BYTES}.")
        try:
            schema = as_written(schema_files.parse(text))
            writer: Any = for_fastavro(schema)
        except Exception as error:
            raise _unreadable(schema_id, error) from error
        if not isinstance(writer, dict) or writer["type"] != "record" or writer["name"] not in _names(self._reader):
            # Without this, a record of another type with fields of the same shape would decode silently.
            name = writer.get("name", text) if isinstance(writer, dict) else text
            raise OtherEvent(f"Schema {schema_id} is {str(name)[:200]}, not {self._reader['name']}.")
        try:
            if writer == self._reader:
                self._runs[wire.header(schema_id)] = compile_run(schema)
                self._schemas[wire.header(schema_id)] = schema
                read = compile_read(schema)
            else:
                read = _resolving(schema, writer, self._reader)
        except Exception as error:
            # What is sound may still be too much for Python's compiler: RecursionError, MemoryError.
            raise _unreadable(schema_id, error) from error
        if _keeps_types(writer, self._reader):
            self._typed[wire.header(schema_id)] = read
        return read


def _resolving(schema: Any, writer: Any, reader: Any) -> Read:
    """Read what one schema wrote as another one sees it."""
    scan = compile_scan(schema)

    def read(value: bytes, start: int) -> Any:
        scan(value, start)
        source = BytesIO(value)
        source.seek(start)
        return fastavro.schemaless_reader(source, writer, reader)

    return read


def _keeps_types(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> bool:
    """Whether each logical type of the reader's fields is the writer's.

    fastavro reads by the writer's logical type, and takes a default as it stands in the schema.
    """
    written = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        if isinstance(field["type"], dict) and "logicalType" in field["type"]:
            found = [written[name] for name in (field["name"], *field.get("aliases", ())) if name in written]
            if not found or any(each != field["type"] for each in found):
                return False
    return True


def _unreadable(schema_id: int, error: Exception) -> Undecodable:
    return Undecodable(f"Schema {schema_id} is no Avro schema that can be read safely: {_words(error)}")


def _misfits(error: ValidationError) -> str:
    """Which field is of a wrong type, without its value: it may be personal."""
    return "; ".join(
        f"{one.field}: this {type(one.datum).__name__} is no {one.schema['type'] if isinstance(one.schema, dict) else one.schema}"
        for one in error.errors
    )


def _names(schema: Mapping[str, Any]) -> set[str]:
    """The full names under which a record schema is known; an alias without a namespace is in the schema's own."""
    namespace = schema["name"].rpartition(".")[0]
    return {schema["name"]} | {
        alias if "." in alias or not namespace else f"{namespace}.{alias}" for alias in schema.get("aliases", ())
    }


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
