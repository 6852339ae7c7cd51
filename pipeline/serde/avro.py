"""Avro data to bytes and back, with the writer's schema from the frame and the reader's from the schema files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import chain, islice
from threading import Thread
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.core.failures import ERROR_CHARACTERS_MAX
from pipeline.errors import OtherEvent, Undecodable
from pipeline.serde import schema_files, wire
from pipeline.serde.avro_schema import Resolved, resolve
from pipeline.serde.compiled_reader import Read, ReadRun, compile_read, compile_run
from pipeline.serde.compiled_writer import compile_write
from pipeline.serde.exact_writer import ExactWriter
from pipeline.serde.resolution import keeps_types, same

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
        resolved = _sound(schema)
        self._header = wire.header(schema_id)
        self._exact = ExactWriter(resolved).datum()
        self._write = compile_write(dict(schema), self._header) or self._write_any
        self.schema_id = schema_id

    def encode(self, datum: Mapping[str, Any] | BaseModel) -> bytes:
        """The framed bytes of a dict or a pydantic model, which `decode` gives back as an equal dict.

        `Invalid` says the field and the reason where that cannot be: nothing is rounded, cut or left out. Fields that have a
        default may be left out, and are read back with it. docs/reference/avro-types.md has the types of each Avro type.
        """
        try:
            return self._write(datum)
        except Exception:  # noqa: BLE001  # says only that the datum is none of the usual ones
            return self._write_any(datum)

    def _write_any(self, datum: Any) -> bytes:
        return self._header + self._exact(datum)


class AvroReader:
    """Reads framed data of any schema a writer registered, as the one reader schema sees them.

    `schema_by_id` gives the text of the writer schema of an id; what it raises (`SchemaUnknown`, `RegistryUnavailable`)
    passes through. Each id is asked for once, whether its schema can be read or not; again only when so many others came
    since that it was forgotten (`KEPT_CHARACTERS_MAX`, `REFUSALS_MAX`).
    """

    def __init__(self, reader_schema: Mapping[str, Any], schema_by_id: Callable[[int], str]) -> None:
        self._reader = _sound(reader_schema)
        self._schema_by_id = schema_by_id
        # By the frame as it stands there: its number is told only where it is not known yet.
        self._reads: dict[bytes, Read] = {}
        self._runs: dict[bytes, ReadRun] = {}
        self._schemas: dict[bytes, Resolved] = {}
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
            if frame not in self._schemas:
                return None  # what has to be resolved is walked
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
        if len(text) > schema_files.MAX_BYTES:
            # No schema file is so large; one of 6 MB takes half a minute and 4 GB to get ready for.
            raise Undecodable(f"Schema {schema_id} has {len(text)} characters, more than {schema_files.MAX_BYTES}.")
        try:
            writer = _sound(schema_files.parse(text), forgiving=True)
        except Exception as error:
            raise _unreadable(schema_id, error) from error
        root = self._reader.root
        if (
            not isinstance(writer.root, dict)
            or writer.root["type"] != "record"
            or writer.root["name"] not in _names(root)
        ):
            # Without this, a record of another type with fields of the same shape would decode silently.
            name = writer.root.get("name", text) if isinstance(writer.root, dict) else text
            raise OtherEvent(f"Schema {schema_id} is {str(name)[:200]}, not {root['name']}.")
        frame = wire.header(schema_id)
        try:
            read = compile_read(writer, self._reader)
            if same(writer, self._reader):
                self._schemas[frame] = self._reader
            if keeps_types(writer, self._reader):
                self._runs[frame] = compile_run(writer, self._reader)
                self._typed[frame] = read
        except Exception as error:
            # What is sound may still be too much for Python's compiler: RecursionError, MemoryError.
            raise _unreadable(schema_id, error) from error
        return read


def _sound(schema: Any, *, forgiving: bool = False) -> Resolved:
    """The schema, resolved; `ValueError` where it has flaws (`avro_schema` says which, and which are forgiven a writer)."""
    resolved = resolve(dict(schema) if isinstance(schema, Mapping) else schema, forgiving=forgiving)
    if resolved.flaws:
        raise ValueError("; ".join(map(str, resolved.flaws)))
    return resolved


def _unreadable(schema_id: int, error: Exception) -> Undecodable:
    return Undecodable(f"Schema {schema_id} is no Avro schema that can be read safely: {_words(error)}")


def _names(root: Mapping[str, Any]) -> set[str]:
    """The full names under which a record schema is known."""
    return {root["name"], *root.get("aliases", ())}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
