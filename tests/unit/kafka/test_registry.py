"""What the registry says, told apart by what can be done about it: wait, mend, or give the record up."""

import json
import time

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError

from pipeline.errors import RegistryUnavailable, SchemaRefused, SchemaUnknown, SettingsRefused
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
            return httpx.Response(status, content=content, headers=headers)

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
