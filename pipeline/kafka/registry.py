"""The schema registry: ids of schemas, schemas of ids, versions and compatibility levels of subjects.

On the client's own `SchemaRegistryClient`, whose errors are told apart here by what can be done about them: an outage
(`RegistryUnavailable`) is waited for, a refusal (`SchemaRefused`, `SettingsRefused`) is mended by a person, an id that
the registry does not have (`SchemaUnknown`) is a dead letter.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from pipeline.core.addresses import public
from pipeline.errors import RegistryUnavailable, SchemaRefused, SchemaUnknown, SettingsRefused, Undecodable
from pipeline.kafka.data_contracts import RULED, rules_of
from pipeline.kafka.proxies import by_way_of, is_direct, without_proxies
from pipeline.kafka.registry_answers import SCHEMA_CHARACTERS_MAX, AnswerTooLarge, bound

T = TypeVar("T")

# One retry, for a kept-alive connection that the registry has closed meanwhile. What else fails is the caller's to try
# again: the client's own three retries with back-off would hold a consumer's poll loop for 47 s.
_RETRIES = 1
_RETRY_WAIT_MS = 100
_PROBE_EVERY_S = 0.5
_UNAUTHORISED = (401, 403)
# Its own codes for one subject that this user may not see, whoever else he is.
_DENIED = range(40300, 40400)
_TRY_LATER = (408, 429)
_NOT_FOUND = range(40400, 40500)
_CONFLICT, _SERVER_ERRORS = 409, 500
_REFUSED = (400, _CONFLICT, 422)
_AVRO = (None, "AVRO")
# The client keeps every schema that it ever saw; these are kept where they are read, too.
_KEPT_MAX = 100
WRITABLE = "READWRITE"


class Registered(NamedTuple):
    """One version of a subject, as the registry has it; `unreadable` says why its text is not here, where it is not."""

    version: int
    id: int
    text: str
    unreadable: str = ""


class Registry:
    """One registry, by its Confluent-compatible API.

    A request takes at most twice `timeout_s` seconds, to the last byte of the answer. Every method raises
    `RegistryUnavailable` when nobody answers, too late, or not as a registry does, and `SettingsRefused` when the
    credentials are. `client` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca_location: Path | None = None,
        timeout_s: float = 10,
        client: SchemaRegistryClient | None = None,
    ) -> None:
        self.where = public(url)
        self._by_way_of = by_way_of(url)
        self._client = client or self._connect(url, user, password, ca_location, timeout_s)
        self._fetched = 0
        rest = getattr(self._client, "_rest_client", None)
        if rest is not None:
            bound(rest.session, timeout_s)

    def _connect(
        self, url: str, user: str | None, password: str | None, ca_location: Path | None, timeout_s: float
    ) -> SchemaRegistryClient:
        properties: dict[str, Any] = {
            "url": url,
            "timeout": timeout_s,
            "max.retries": _RETRIES,
            "retries.wait.ms": _RETRY_WAIT_MS,
        }
        if user is not None:
            properties["basic.auth.user.info"] = f"{user}:{password or ''}"
        if ca_location is not None:
            properties["ssl.ca.location"] = str(ca_location)
        try:
            with without_proxies() if is_direct(url) else nullcontext():
                client = SchemaRegistryClient.new_client(properties)
        except (ValueError, ImportError, OSError) as error:
            # An unreadable certificate is an OSError (ssl.SSLError too); the words of a ValueError may hold the URL. A proxy
            # of a kind that takes another package is an ImportError.
            why = "the URL or the credentials are malformed" if isinstance(error, ValueError) else str(error)
            raise SettingsRefused(
                f"The schema registry {self.where} cannot be set up{self._by_way_of}: {why}. "
                "See PIPELINE_REGISTRY__URL, __USER, __PASSWORD and __CA_LOCATION, and NO_PROXY where there is a proxy."
            ) from None
        if is_direct(url):
            client._rest_client.session._mounts.clear()  # noqa: SLF001  # a system may have proxies elsewhere
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; nothing can be asked afterwards. May be called twice."""
        self._client.close()

    def wait_until_reachable(self, timeout_s: float) -> None:
        """Return once the registry answered; raise `RegistryUnavailable` after `timeout_s` seconds without an answer.

        What answers, but is no registry, is not waited for.
        """
        began = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                self._ask(lambda: self._level(None))
            except _NotARegistry:
                raise
            except RegistryUnavailable as error:
                now = time.monotonic()
                # A probe that hangs takes its full time again: none is begun that would end after the deadline.
                if not now + max(now - started, _PROBE_EVERY_S) <= began + timeout_s:  # so that NaN is no endless wait
                    raise RegistryUnavailable(f"{error} (Tried for {now - began:.0f} s.)") from error
                time.sleep(_PROBE_EVERY_S)
            else:
                return

    def lookup_id(self, subject: str, schema_text: str) -> int:
        """The id under which this schema is registered for the subject, looked up by content, never registered.

        Content is what the registry takes for it: white space and the order of keys never count, nor do docs, aliases
        and enum defaults for Apicurio. Raises `SchemaRefused` when it is not there, or has rules (see `rules_of`).
        """
        found = self._ask_or_none(lambda: self._client.lookup_schema(subject, Schema(schema_text)))
        if found is None:
            raise SchemaRefused(
                f"The schema of {subject} is not registered at {self.where}. "
                "Register it (make register-schemas), or name the right registry (PIPELINE_REGISTRY__URL)."
            )
        schema_id = self._number(found.schema_id)
        # The client puts what it sent into the answer to a lookup: what the id stands for is asked for by the id.
        there = self._ask_or_none(lambda: self._client.get_schema(schema_id))
        if there is None:
            raise self._unavailable(f"found the schema of {subject} under id {schema_id}, but does not have that yet")
        if rules := rules_of(there):
            raise SchemaRefused(f"The schema of {subject} at {self.where} {RULED.format(rules)}")
        return schema_id

    def schema_by_id(self, schema_id: int) -> str:
        """The text of the schema with this id.

        Raises `SchemaUnknown` when the registry has none, or will not show it to this user, and `Undecodable` when it has one
        that nobody may read by: not Avro, too large, or with rules (see `rules_of`).
        """
        if self._fetched >= _KEPT_MAX:
            self._forget()
        self._fetched += 1
        try:
            found = self._ask_or_none(lambda: self._client.get_schema(schema_id))
        except _TooLarge as error:
            what = f"is too large to be read, more than {SCHEMA_CHARACTERS_MAX} characters: {error.__cause__}"
            raise Undecodable(f"Schema {schema_id} of {self.where} {what}.") from error
        except (SchemaRefused, _Denied) as error:
            raise SchemaUnknown(f"Schema {schema_id}: {error}") from error
        if found is None:
            raise SchemaUnknown(f"The schema registry {self.where} has no schema {schema_id}.")
        if found.schema_type not in _AVRO:
            raise SchemaUnknown(f"Schema {schema_id} of {self.where} is {found.schema_type}, not Avro.")
        if rules := rules_of(found):
            raise Undecodable(f"Schema {schema_id} of {self.where} {RULED.format(rules)}")
        return self._text(found.schema_str)

    def subjects(self) -> list[str]:
        """The subjects that have a schema, in alphabetical order."""
        return self._ask(lambda: sorted(self._client.get_subjects()))

    def subjects_of(self, prefix: str) -> list[str]:
        """The subjects that begin so; none where the registry has too many to say."""
        try:
            names = self._ask_or_none(lambda: self._client.get_subjects(prefix)) or []
            return sorted(name for name in names if name.startswith(prefix))
        except (SchemaRefused, _NotARegistry):
            return []

    def versions(self, subject: str) -> list[Registered]:
        """Every version of the subject, oldest first; none when the registry does not know it.

        Raises `SchemaRefused` where one is not Avro or has rules (see `rules_of`).
        """
        self._forget()
        numbers = self._ask_or_none(lambda: sorted(self._client.get_versions(subject))) or []
        return [self._version(subject, number) for number in numbers]

    def _forget(self) -> None:
        """What the client keeps: it is what was sent, not what is there, and grows without end."""
        self._client.clear_caches()  # type: ignore[no-untyped-call]
        self._fetched = 0

    def deleted(self, subject: str) -> list[Registered]:
        """The versions that were deleted, as far as the registry remembers them."""
        try:
            # Not by `deleted_only`, which Apicurio takes for nothing.
            every = self._ask_or_none(lambda: set(self._client.get_versions(subject, deleted=True))) or set()
            there = self._ask_or_none(lambda: set(self._client.get_versions(subject))) or set()
            return [self._version(subject, number, deleted=True) for number in sorted(every - there)]
        except (SchemaRefused, _NotARegistry):
            return []  # it remembers none, or does not know the question

    def numbers(self, subject: str) -> list[tuple[int, int]]:
        """The number and the id of every version, whatever it is; none when the registry does not know the subject."""
        numbers = self._ask_or_none(lambda: sorted(self._client.get_versions(subject))) or []
        return [(number, self._number(self._found(subject, number).schema_id)) for number in numbers]

    def _found(self, subject: str, number: int, *, deleted: bool = False) -> Any:
        return self._ask(lambda: self._client.get_version(subject, number, deleted=deleted))

    def _version(self, subject: str, number: int, *, deleted: bool = False) -> Registered:
        try:
            one = self._found(subject, number, deleted=deleted)
        except _TooLarge as error:
            return Registered(number, 0, "", f"it is too large to be read: {error.__cause__}")
        if one.schema.schema_type not in _AVRO:
            raise SchemaRefused(
                f"{subject} v{number} at {self.where} is {one.schema.schema_type}, not Avro. Use another subject name."
            )
        if rules := rules_of(one.schema):
            raise SchemaRefused(f"{subject} v{number} at {self.where} {RULED.format(rules)}")
        return Registered(number, self._number(one.schema_id), self._text(one.schema.schema_str))

    def register(self, subject: str, schema_text: str) -> int:
        """Register a version and return its id; `SchemaRefused` with the registry's own words when it refuses.

        Only `pipeline.stages.schema_gate` calls this, after our own gate let the schema pass.
        """
        return self._number(self._ask(lambda: self._client.register_schema(subject, Schema(schema_text))))

    def compatibility(self, subject: str) -> str | None:
        """The level that governs the subject: its own, else the registry's; None where that is NONE."""
        own = self._ask_or_none(lambda: self._level(subject))
        if own is not None:
            return own
        usual = self._ask_or_none(lambda: self._level(None))
        return None if usual == "NONE" else usual

    def rules_to_come(self, subject: str) -> str:
        """The rules that the registry adds to whatever is registered for the subject (see `rules_of`), in words."""
        found = []
        for of in (subject, None):
            try:
                config = self._ask_or_none(lambda of=of: self._client.get_config(of))  # type: ignore[misc]
            except (SchemaRefused, RegistryUnavailable):
                continue  # a registry that has no such settings, or is away, which whoever writes will hear
            for kind in ("default", "override"):
                sets = {name: getattr(config, f"{kind}_{name}", None) for name in ("rule_set", "metadata")}
                found.append(rules_of(SimpleNamespace(**sets)))
        return ", ".join(dict.fromkeys(filter(None, found)))

    def mode(self, subject: str) -> str:
        """Whether it takes schemas for the subject: `WRITABLE`, else in its own words (READONLY, IMPORT, ...).

        `WRITABLE` too where it does not say: it knows no modes, or is away, which whoever writes will hear.
        """
        try:
            return str(self._ask(lambda: self._client.get_mode(subject)))
        except SettingsRefused:
            raise
        except (SchemaRefused, RegistryUnavailable):
            return WRITABLE

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's own level and read it back; the subject need not have a schema yet."""
        refusal: SchemaRefused | None = None
        try:
            self._ask(lambda: self._client.set_compatibility(subject, level))
        except SchemaRefused as error:
            # Of two who set it at once, Apicurio answers one with 409: what is there then is what counts.
            refusal = error
        now = self.compatibility(subject)
        if now != level:
            raise refusal or SchemaRefused(
                f"{self.where} took the compatibility level {level} of {subject}, but says {now}. Set it there by hand."
            )

    def _level(self, subject: str | None) -> str:
        return str(self._client.get_compatibility(subject))

    def _ask_or_none(self, question: Callable[[], T]) -> T | None:
        try:
            return self._ask(question)
        except _NotFound:
            return None

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer. `question` is one call of the client and no more: every error in it is taken for the client's."""
        try:
            return question()
        except SchemaRegistryError as error:
            raise self._said(error) from error
        except AnswerTooLarge as error:
            raise _TooLarge(str(self._not_a_registry(str(error)))) from error
        except Exception as error:
            # The client lets out what its HTTP library raises (httpx2, or httpx where that is absent), ValueError for a
            # page that is no JSON, KeyError, TypeError and AttributeError for JSON of another shape.
            if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx", "httpx2"):
                raise self._unavailable(f"does not answer ({type(error).__name__}: {error})") from error
            raise self._not_a_registry(f"{type(error).__name__}: {error}") from error

    def _said(self, error: SchemaRegistryError) -> Exception:
        status, code, words = error.http_status_code, error.error_code, error.error_message
        if status in _UNAUTHORISED:
            kind = _Denied if code in _DENIED else SettingsRefused
            return kind(
                f"The schema registry {self.where} refuses the credentials (HTTP {status}). "
                "See PIPELINE_REGISTRY__USER and PIPELINE_REGISTRY__PASSWORD."
            )
        if code in _NOT_FOUND:
            return _NotFound(f"The schema registry {self.where} says: {words}")
        if status in _REFUSED and code not in (None, SchemaRegistryError.UNKNOWN):
            return SchemaRefused(f"The schema registry {self.where} refuses it (HTTP {status}): {words}")
        if status in _TRY_LATER or status >= _SERVER_ERRORS:
            return self._unavailable(f"cannot answer now (HTTP {status}: {words})")
        return self._not_a_registry(f"HTTP {status}")

    def _unavailable(self, what: str) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"The schema registry {self.where}{self._by_way_of} {what}. "
            "Is it running (make up), and does PIPELINE_REGISTRY__URL name it?"
        )

    def _not_a_registry(self, what: str) -> RegistryUnavailable:
        return _NotARegistry(
            f"What answers at {self.where}{self._by_way_of} does not answer like a schema registry ({what[:200]}). "
            "See PIPELINE_REGISTRY__URL: its path counts too, such as /apis/ccompat/v7 for Apicurio."
        )

    def _number(self, value: object) -> int:
        if isinstance(value, int):
            return value
        raise self._not_a_registry(f"{value!r} for a schema id")

    def _text(self, value: object) -> str:
        if isinstance(value, str):
            return value
        raise self._not_a_registry(f"{value!r} for a schema")


class _NotARegistry(RegistryUnavailable):
    """Something answers, but not as a registry does."""


class _TooLarge(_NotARegistry):
    """The answer is larger than any schema."""


class _Denied(SettingsRefused):
    """One subject is not for this user, says the registry."""


class _NotFound(SchemaRefused):
    """The registry says, in its own words, that it has no such subject, version or schema."""
