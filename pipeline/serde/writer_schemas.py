"""The schemas that records name by id: asked for once each, waited for a little when unknown, then given up for a while.

An id that the registry does not have may be there in a moment (it was just registered, and this registry lags behind), or
never (the record is forged, or from another cluster). So an unknown id has a grace, counted from its first sight and
running for all ids side by side; after it the answer is kept for some minutes, so that a flood of such records costs no
registry call each.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pipeline.errors import RecordError, RegistryUnavailable, SchemaPending, SchemaUnknown, Undecodable

GRACE_S = 10.0
FORGET_S = 300.0
OUTAGE_S = 0.2
# A flood of made-up ids must not fill the memory; the oldest are forgotten first, and cost one more question.
IDS_MAX = 10_000


class WriterSchemas:
    """`ask` gives the text of an id's schema, `SchemaUnknown` when there is none; `clock` seconds that never go back."""

    def __init__(self, ask: Callable[[int], str], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._first_seen: OrderedDict[int, float] = OrderedDict()
        self._unknown_until: OrderedDict[int, tuple[float, type[RecordError], str]] = OrderedDict()
        self._outage: tuple[float, str] = (clock(), "")

    def __call__(self, schema_id: int) -> str:
        """The schema's text.

        An outage (`RegistryUnavailable`) is believed for as long as it took to find out, and `OUTAGE_S` seconds at least: a
        flood of records of cold schemas must not hold the poll loop for a time-out each.
        Raises `SchemaPending` (an outage: wait) within `GRACE_S` seconds of an unknown id's first sight, `SchemaUnknown` (a
        dead letter) after it, for `FORGET_S` seconds without asking again; `Undecodable` (a dead letter) as long for a schema
        that the registry has and nobody may read by.
        """
        now = self._clock()
        until, kind, words = self._unknown_until.get(schema_id, (now, SchemaUnknown, ""))
        if now < until:
            raise kind(words)
        until, words = self._outage
        if now < until:
            raise RegistryUnavailable(words)
        try:
            text = self._ask(schema_id)
        except RegistryUnavailable as error:
            asked_s = self._clock() - now
            self._outage = (self._clock() + max(OUTAGE_S, asked_s), str(error))
            raise
        except SchemaUnknown as error:
            first = self._first_seen.setdefault(schema_id, now)
            _bound(self._first_seen)
            if now - first < GRACE_S:
                raise SchemaPending(
                    f"Schema {schema_id} is not in the registry; it may come within {GRACE_S - (now - first):.0f} s."
                ) from error
            # The registry's own words: it may have the schema, but not as Avro.
            words = f"{error} (Asked for {GRACE_S:g} s.)"
            self._unknown_until[schema_id] = now + FORGET_S, SchemaUnknown, words
            _bound(self._unknown_until)
            raise SchemaUnknown(words) from None
        except Undecodable as error:
            # The registry has it, and nobody may read by it: to ask again for each record would be the larger harm.
            self._unknown_until[schema_id] = now + FORGET_S, type(error), str(error)
            _bound(self._unknown_until)
            raise
        self._first_seen.pop(schema_id, None)
        self._unknown_until.pop(schema_id, None)
        return text


def _bound(ids: OrderedDict[int, Any]) -> None:
    while len(ids) > IDS_MAX:
        ids.popitem(last=False)
