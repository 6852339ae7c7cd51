from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from pipeline.errors import BrokerUnavailable, NotAuthorized, PipelineError, SettingsRefused, TopicRefused
from pipeline.kafka.admin import Cluster
from pipeline.kafka.errors import DENIED, OUTAGE, TOPIC_ABSENT, UNAUTHENTICATED, other_protocol, translate


@pytest.mark.parametrize("code", sorted(OUTAGE | UNAUTHENTICATED | DENIED.keys() | TOPIC_ABSENT))
def test_every_code_that_is_told_apart_is_one_of_the_clients(code):
    assert KafkaError(getattr(KafkaError, code)).name() == code


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (OUTAGE, BrokerUnavailable),
        (UNAUTHENTICATED, SettingsRefused),
        (DENIED, SettingsRefused),
        (TOPIC_ABSENT, TopicRefused),
        (["UNKNOWN", "INVALID_CONFIG", "_FAIL", "_STATE"], PipelineError),
    ],
)
def test_a_code_decides_the_error_and_the_message_says_what_was_being_done(codes, expected):
    for code in codes:
        error = translate(KafkaError(getattr(KafkaError, code), "because."), "reading orders.v1")
        assert type(error) is expected
        assert str(error).startswith("reading orders.v1: ")
        assert "because" in str(error)


def test_a_code_that_means_nothing_special_is_named():
    assert "INVALID_CONFIG" in str(translate(KafkaError(KafkaError.INVALID_CONFIG), "creating a.v1"))


def test_server_of_another_protocol_is_told_by_its_first_bytes():
    said = "Receive failed: Invalid response size {} (0..1000000000): increase receive.message.max.bytes"
    assert "HTTP server" in (other_protocol(said.format(1213486160)) or "")
    assert "TLS server" in (other_protocol(said.format(352518912)) or "")
    assert other_protocol(said.format(2_000_000_000)) is None
    assert other_protocol("Connect to ipv4#127.0.0.1:1 failed: Connection refused") is None


@pytest.mark.parametrize("code", sorted(DENIED))
def test_denial_names_operation_resource_and_principal(code):
    error = KafkaError(getattr(KafkaError, code), "denied")
    told = translate(error, "reading", needs="DESCRIBE_CONFIGS on Topic orders.v1", principal="alice")
    assert type(told) is NotAuthorized
    assert "not authorized: User:alice needs DESCRIBE_CONFIGS on Topic orders.v1" in str(told)
    assert told.exit_code == 2


def test_cluster_names_who_was_denied_what(monkeypatch):
    cluster = Cluster({"bootstrap.servers": "127.0.0.1:1", "sasl.username": "alice", "log_level": 0})
    denied = Future()
    denied.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "denied")))
    monkeypatch.setattr(cluster, "_ask", lambda _: [(ConfigResource(ResourceType.TOPIC, "orders.v1"), denied)])
    with pytest.raises(NotAuthorized, match=r"User:alice needs DESCRIBE_CONFIGS on Topic orders\.v1"):
        cluster.topic_configs(["orders.v1"])
