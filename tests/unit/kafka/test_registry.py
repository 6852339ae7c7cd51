"""What the registry says, told apart by what can be done about it: wait, mend, or give the record up."""

import gzip
import json
import time

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError

from pipeline.errors import RegistryUnavailable, SchemaRefused, SchemaUnknown, SettingsRefused, Undecodable
from pipeline.kafka import registry_answers
from pipeline.kafka.registry import Registered, Registry
from tests.stages.registry_double import registry

try:  # the one that the client takes
    import httpx2 as httpx
except ImportError:
    import httpx

WHERE = "http://registry.test/apis"


class Answering(SchemaRegistryClient):
    """The client on a transport that gives the same answer to everything, or raises."""

    def __init__(self, status=200, content=b"", error=None, headers=None):
        super().__init__({"url": WHERE, "max.retries": 0})
        self._rest_client.session.close()
        self.requests = []

        def answer(request):
            self.requests.append(f"{request.method} {request.url.path}")
            if error:
                raise error
            return httpx.Response(status, content=content(request) if callable(content) else content, headers=headers)

        self._rest_client.session = httpx.Client(transport=httpx.MockTransport(answer))


def asked(**answer):
    """A registry that answers so, asked for a schema by its id."""
    with Registry(WHERE, client=Answering(**answer)) as registry_:
        registry_.schema_by_id(7)


def said(status, code, words="its words"):
    return {"status": status, "content": json.dumps({"error_code": code, "message": words}).encode()}


@pytest.mark.parametrize(
    "answer",
    [
        {"error": httpx.ConnectError("Connection refused")},
        {"error": httpx.ConnectTimeout("timed out")},
        {"error": httpx.ReadTimeout("timed out")},
        {"error": httpx.RemoteProtocolError("Server disconnected")},
        {"error": OSError("broken pipe")},
        said(500, 50001),
        said(503, 50003),
        said(429, 429),
        said(408, 408),
        {"status": 502, "content": b"<html>Bad Gateway</html>"},
        {"status": 504},
    ],
)
def test_outage_is_unavailable_and_says_what_to_do(answer):
    with pytest.raises(RegistryUnavailable) as unavailable:
        asked(**answer)
    assert str(unavailable.value).startswith(f"The schema registry {WHERE} ")
    assert "make up" in str(unavailable.value)
    assert "PIPELINE_REGISTRY__URL" in str(unavailable.value)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": b"<html>Welcome</html>"},
        {"content": b""},
        {"content": b"[1]"},
        {"content": b"5"},
        {"content": b"{}"},
        {"content": b'{"schema": 5}'},
        {"content": b"\x00\xff"},
        {"content": b"[" * 100_000},
        {"status": 302, "headers": {"location": "http://elsewhere.test/"}},
        {"status": 404, "content": b"<html>Not Found</html>"},
        {"status": 404, "content": b'{"title": "Not Found"}'},
        {"status": 405},
        {"status": 400, "content": b"Bad Request"},
    ],
)
def test_what_is_no_registry_is_unavailable_and_says_that_the_path_counts(answer):
    with pytest.raises(RegistryUnavailable, match=r"does not answer like a schema registry .* its path counts too"):
        asked(**answer)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_a_setting_to_mend(status):
    with pytest.raises(SettingsRefused, match="PIPELINE_REGISTRY__USER and PIPELINE_REGISTRY__PASSWORD"):
        asked(**said(status, status))


def test_unknown_id_is_the_fault_of_the_record():
    with pytest.raises(SchemaUnknown, match="has no schema 7"):
        asked(**said(404, 40403))


@pytest.mark.parametrize(("status", "code"), [(409, 409), (422, 42201)])
def test_refusal_is_told_in_the_words_of_the_registry(status, code):
    with (
        Registry(WHERE, client=Answering(**said(status, code, "channel at /fields/4"))) as registry_,
        pytest.raises(SchemaRefused, match=rf"HTTP {status}\): channel at /fields/4"),
    ):
        registry_.register("a-value", "{}")


def test_schema_that_is_not_registered_is_refused_and_never_registered():
    client = Answering(**said(404, 40403))
    with (
        Registry(WHERE, client=client) as registry_,
        pytest.raises(SchemaRefused, match=r"schema of a-value is not registered at .*make register-schemas"),
    ):
        registry_.lookup_id("a-value", "{}")
    assert client.requests == ["POST /apis/subjects/a-value"]


def test_schema_is_fetched_once_for_each_id():
    client = Answering(content=b'{"schema": "\\"int\\""}')
    with Registry(WHERE, client=client) as registry_:
        assert [registry_.schema_by_id(7) for _ in range(3)] == ['"int"'] * 3
    assert client.requests == ["GET /apis/schemas/ids/7"]


def test_subject_that_is_not_there_has_no_versions_and_no_level():
    with Registry(WHERE, client=Answering(**said(404, 40401))) as registry_:
        assert registry_.versions("a-value") == []
        assert registry_.compatibility("a-value") is None


def test_versions_come_with_ids_and_texts():
    registry_, client = registry()
    with registry_:
        ids = [client.put("a-value", one) for one in ('"int"', '"long"')]
        assert registry_.versions("a-value") == [Registered(1, ids[0], '"int"'), Registered(2, ids[1], '"long"')]
        assert registry_.lookup_id("a-value", '"long"') == ids[1]
        assert registry_.schema_by_id(ids[0]) == '"int"'
        assert registry_.subjects() == ["a-value"]


def test_subject_of_another_format_is_refused():
    registry_, client = registry()
    with registry_:
        schema_id = client.put("a-value", "message A {}", "PROTOBUF")
        with pytest.raises(SchemaRefused, match=r"a-value v1 .* is PROTOBUF, not Avro"):
            registry_.versions("a-value")
        with pytest.raises(SchemaUnknown, match=r"is PROTOBUF, not Avro"):
            registry_.schema_by_id(schema_id)


def test_registry_that_comes_up_is_waited_for(monkeypatch):
    registry_, client = registry()
    answers = [SchemaRegistryError(503, 50003, "starting"), httpx.ConnectError("refused"), "NONE"]

    def answer(_):
        one = answers.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(client, "get_compatibility", answer)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with registry_:
        registry_.wait_until_reachable(30)
    assert answers == []


@pytest.mark.parametrize("limit", [0, float("nan")])
def test_registry_that_stays_away_is_given_up(limit):
    client = Answering(error=httpx.ConnectError("Connection refused"))
    with (
        Registry(WHERE, client=client) as registry_,
        pytest.raises(RegistryUnavailable, match=r"refused.*Tried for 0 s"),
    ):
        registry_.wait_until_reachable(limit)
    assert len(client.requests) == 1


@pytest.mark.parametrize("answer", [{"content": b"<html>"}, said(401, 401)])
def test_what_will_not_change_by_waiting_is_not_waited_for(answer):
    client = Answering(**answer)
    with Registry(WHERE, client=client) as registry_, pytest.raises((RegistryUnavailable, SettingsRefused)):
        registry_.wait_until_reachable(60)
    assert len(client.requests) == 1


@pytest.mark.parametrize("settings", [{"url": "registry:8081"}, {"url": WHERE, "ca_location": "/nope/ca.pem"}])
def test_settings_that_the_client_cannot_take_are_refused(settings):
    with pytest.raises(SettingsRefused, match="PIPELINE_REGISTRY__URL"):
        Registry(**settings)


def test_credentials_are_sent_and_never_shown():
    with Registry("https://registry.test", user="u", password="pa:ss") as registry_:
        assert registry_._client._rest_client.auth == ("u", "pa:ss")
    with (
        Registry("http://u:secret@registry.test/", client=Answering(status=503)) as registry_,
        pytest.raises(RegistryUnavailable) as unavailable,
    ):
        registry_.subjects()
    assert "secret" not in str(unavailable.value)
    with pytest.raises(SettingsRefused) as refused:
        Registry("http://u:secret@registry.test/", user="u", password="secret")
    assert "secret" not in str(refused.value)


class Parts(httpx.SyncByteStream):
    """An answer that comes in parts, without a word on its length."""

    def __init__(self, many, part=b" " * 65_536):
        self._many, self._part, self.taken = many, part, 0

    def __iter__(self):
        for _ in range(self._many):
            self.taken += len(self._part)
            yield self._part

    def close(self):
        pass


LARGE = 3 << 20


@pytest.mark.parametrize(
    "answer",
    [
        {"content": lambda _: iter(Parts(10_000))},
        {"content": b'{"schema": "' + b"x" * LARGE + b'"}'},
        {"headers": {"content-length": "9" * 5000}},
        {"content": gzip.compress(b" " * 100_000_000), "headers": {"content-encoding": "gzip"}},
        {"status": 404, "content": b" " * LARGE},
        {"status": 500, "content": b" " * LARGE},
    ],
    ids=["parts", "whole", "length", "compressed", "not found", "error"],
)
def test_answer_that_is_too_large_is_never_read_whole(answer):
    with pytest.raises(
        Undecodable,
        match=r"Schema 7 of http://registry.test/apis is too large to be read, more than 1048576 characters: the ",
    ):
        asked(**answer)
    with (
        Registry(WHERE, client=Answering(**answer)) as registry_,
        pytest.raises(RegistryUnavailable, match="does not answer like a schema registry"),
    ):
        registry_.subjects()


def test_parts_of_an_answer_are_counted_as_they_come():
    parts = Parts(10_000)
    with pytest.raises(Undecodable, match="more than 2097152 bytes"):
        asked(content=lambda _: iter(parts))
    assert parts.taken < LARGE


def test_answer_of_the_largest_size_is_read():
    schema = "x" * (registry_answers.ANSWER_BYTES_MAX - 20)
    with Registry(WHERE, client=Answering(content=json.dumps({"schema": schema}).encode())) as registry_:
        assert registry_.schema_by_id(7) == schema


def test_answer_of_a_real_connection_has_a_deadline():
    with Registry("http://127.0.0.1:1") as registry_:
        backend = registry_._client._rest_client.session._transport._pool._network_backend
        assert isinstance(backend, registry_answers._Backend)


def test_each_byte_of_an_answer_is_waited_for_no_longer_than_what_is_left(monkeypatch):
    now, asked_for = [0.0], []

    class Dripping:
        def read(self, max_bytes, timeout):
            asked_for.append(timeout)
            now[0] += 1
            return b"H"

        def connect_tcp(self, host, port, timeout):
            asked_for.append(timeout)
            return self

    monkeypatch.setattr(registry_answers.time, "monotonic", lambda: now[0])
    deadline = registry_answers._Deadline(3)
    stream = registry_answers._Backend(Dripping(), deadline).connect_tcp("h", 1, timeout=5)
    for _ in range(3):
        assert stream.read(1, timeout=2.5) == b"H"
    with pytest.raises(registry_answers.httpcore.ReadTimeout, match="no whole answer within 3 s"):
        stream.read(1, timeout=2.5)
    assert asked_for == [3, 2.5, 2, 1]
    deadline.begin()
    assert stream.read(1, timeout=None) == b"H"


@pytest.mark.parametrize(("status", "code"), [(400, 40001), (409, 40901), (422, 42201), (404, 40402)])
def test_schema_that_the_registry_will_not_look_for_is_the_fault_of_the_record(status, code):
    with pytest.raises(SchemaUnknown):
        asked(**said(status, code))


ENCRYPTS = {"name": "pii", "kind": "TRANSFORM", "mode": "WRITEREAD", "type": "ENCRYPT", "tags": ["PII"]}
RULED = [
    ({"ruleSet": {"domainRules": [ENCRYPTS]}}, "ENCRYPT pii"),
    ({"ruleSet": {"domainRules": [{**ENCRYPTS, "disabled": True}]}}, "ENCRYPT pii"),
    (
        {"ruleSet": {"migrationRules": [{"name": "up", "kind": "TRANSFORM", "mode": "UPGRADE", "type": "JSONATA"}]}},
        "JSONATA up",
    ),
    (
        {
            "ruleSet": {
                "encodingRules": [{"name": "all", "kind": "TRANSFORM", "mode": "WRITEREAD", "type": "ENCRYPT_PAYLOAD"}]
            }
        },
        "ENCRYPT_PAYLOAD all",
    ),
    ({"metadata": {"properties": {"encrypt.kek.name": "k1", "owner": "shop"}}}, "metadata encrypt.kek.name"),
]
UNRULED = [
    {},
    {"ruleSet": None},
    {"ruleSet": {}},
    {"ruleSet": {"domainRules": []}},
    {"metadata": {"properties": {"owner": "shop"}}},
]


def version(**more):
    return {"subject": "a-value", "version": 1, "id": 7, "schema": '"int"', **more}


@pytest.mark.parametrize(("more", "words"), RULED)
def test_schema_with_rules_is_refused_wherever_it_is_asked_for(more, words):
    def answer(request):
        return b"[1]" if request.url.path.endswith("/versions") else json.dumps(version(**more)).encode()

    with Registry(WHERE, client=Answering(content=answer)) as registry_:
        for ask in (lambda: registry_.lookup_id("a-value", '"int"'), lambda: registry_.versions("a-value")):
            with pytest.raises(SchemaRefused, match=rf"has rules \({words}\), which are not carried out here"):
                ask()
        with pytest.raises(Undecodable, match=rf"Schema 7 of .* has rules \({words}\)"):
            registry_.schema_by_id(7)
        assert registry_.numbers("a-value") == [(1, 7)]


@pytest.mark.parametrize("more", UNRULED)
def test_schema_without_rules_is_taken_whatever_else_is_said_of_it(more):
    def answer(request):
        return b"[1]" if request.url.path.endswith("/versions") else json.dumps(version(**more)).encode()

    with Registry(WHERE, client=Answering(content=answer)) as registry_:
        assert registry_.lookup_id("a-value", '"int"') == 7
        assert registry_.schema_by_id(7) == '"int"'
        assert registry_.versions("a-value") == [Registered(1, 7, '"int"')]


def test_level_that_governs_is_the_subjects_own_or_else_the_registrys():
    registry_, client = registry()
    with registry_:
        client.levels[None] = "FULL_TRANSITIVE"
        assert registry_.compatibility("a-value") == "FULL_TRANSITIVE"
        client.levels["a-value"] = "NONE"
        assert registry_.compatibility("a-value") == "NONE"


def test_registry_that_knows_no_modes_is_taken_for_writable():
    for answer in (said(404, 40401), {"status": 404, "content": b"<html>"}, {"status": 405}):
        with Registry(WHERE, client=Answering(**answer)) as registry_:
            assert registry_.mode("a-value") == "READWRITE"
    with Registry(WHERE, client=Answering(content=b'{"mode": "READONLY"}')) as registry_:
        assert registry_.mode("a-value") == "READONLY"


def test_schemas_that_were_fetched_are_not_kept_for_ever():
    client = Answering(content=lambda request: json.dumps({"schema": request.url.path}).encode())
    with Registry(WHERE, client=client) as registry_:
        for number in range(1000):
            registry_.schema_by_id(number)
    assert sum(map(len, client._cache.schema_id_index.values())) <= 100


def test_schema_of_a_subject_that_this_user_may_not_see_is_the_fault_of_the_record():
    with pytest.raises(SchemaUnknown, match=r"Schema 7: .*refuses the credentials"):
        asked(**said(403, 40301, "User is denied operation Read on Subject: other-value"))
    with (
        Registry(WHERE, client=Answering(**said(403, 40301))) as registry_,
        pytest.raises(SettingsRefused),
    ):
        registry_.versions("a-value")
