import logging

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from pipeline.errors import SettingsRefused
from pipeline.kafka import config
from pipeline.settings import Kafka, Security

# An address nobody answers at; librdkafka does not need one to judge its properties.
NOWHERE = "127.0.0.1:1"


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        if "CONFWARN" in record.getMessage():
            self.lines.append(record.getMessage())


@pytest.fixture
def heard():
    handler = Heard()
    handler.logger = logging.getLogger("tests.unit.kafka.heard")
    handler.logger.propagate = False
    handler.logger.addHandler(handler)
    yield handler
    handler.logger.removeHandler(handler)


def kafka(**given):
    return Kafka(bootstrap_servers=NOWHERE, **given)


VARIANTS = [
    kafka(),
    kafka(instance="worker-1", group_protocol="consumer"),
    kafka(compression="none", extra={"session.timeout.ms": "45000", "acks": "all"}, group_protocol="consumer"),
    kafka(
        security=Security(use_sasl=True, user="u", password="p", protocol="SASL_SSL", mechanism="PLAIN"),
        extra={
            "linger.ms": "50",
            "fetch.min.bytes": "9",
            "client.rack": "r",
            "session.timeout.ms": "45000",
            "acks": "all",
        },
    ),
]


@pytest.mark.parametrize("given", VARIANTS)
def test_librdkafka_accepts_what_we_set_without_a_warning(heard, given):
    """With both group protocols, and with keys of the other kind of client in `extra`."""
    config.check(given)
    producer = Producer(config.producer(given), logger=heard.logger)
    producer.poll(0)
    consumer = Consumer(config.consumer(given), logger=heard.logger)
    consumer.poll(0)
    consumer.close()
    admin = AdminClient(config.connection(given), logger=heard.logger)
    admin.poll(0)
    assert heard.lines == []


def test_warning_would_be_heard(heard):
    """The twin of the test above: the log does reach its handler."""
    producer = Producer({"bootstrap.servers": NOWHERE, "fetch.min.bytes": 9}, logger=heard.logger)
    producer.poll(0)
    assert len(heard.lines) == 1


def test_extra_tunes_but_does_not_touch_the_promises():
    extra = {"linger.ms": "50", "acks": "1", "partitioner": "random", "enable.auto.commit": "true", "client.id": "mine"}
    given = kafka(extra=extra | {"auto.offset.reset": "latest", "isolation.level": "read_uncommitted"})
    producer, consumer = config.producer(given), config.consumer(given)
    assert (producer["linger.ms"], producer["client.id"]) == ("50", "mine")
    assert (producer["acks"], producer["partitioner"]) == ("all", "murmur2_random")
    assert (consumer["auto.offset.reset"], consumer["isolation.level"]) == ("earliest", "read_committed")
    assert consumer["enable.auto.commit"] is False


def test_keys_go_to_the_client_they_are_for():
    given = kafka(extra={"linger.ms": "50", "fetch.min.bytes": "9", "socket.timeout.ms": "900"})
    of = {
        "connection": config.connection(given),
        "producer": config.producer(given),
        "consumer": config.consumer(given),
    }
    having = {key: sorted(name for name, it in of.items() if it.get(key) == given.extra[key]) for key in given.extra}
    assert having == {
        "linger.ms": ["producer"],
        "fetch.min.bytes": ["consumer"],
        "socket.timeout.ms": ["connection", "consumer", "producer"],
    }


def test_broker_owns_the_session_in_the_new_group_protocol():
    classic = config.consumer(kafka(extra={"session.timeout.ms": "45000"}))
    assert (classic["session.timeout.ms"], classic["partition.assignment.strategy"]) == ("45000", "range")
    assert "group.protocol" not in classic
    new = config.consumer(kafka(extra={"session.timeout.ms": "45000"}, group_protocol="consumer"))
    assert (new["group.protocol"], new["group.remote.assignor"]) == ("consumer", "range")
    assert not {"session.timeout.ms", "partition.assignment.strategy"} & new.keys()


def test_credentials_are_given_only_with_sasl(tmp_path):
    assert not [key for key in config.connection(kafka()) if key.startswith(("sasl", "ssl"))]
    secure = Security(use_sasl=True, user="u", password="p", protocol="SASL_SSL", ca_location=tmp_path)
    properties = config.connection(kafka(security=secure))
    assert properties["security.protocol"] == "SASL_SSL"
    assert properties["sasl.mechanisms"] == "SCRAM-SHA-512"
    assert (properties["sasl.username"], properties["sasl.password"]) == ("u", "p")
    assert properties["ssl.ca.location"] == str(tmp_path)


def test_every_property_the_client_refuses_is_told_at_once():
    with pytest.raises(SettingsRefused) as caught:
        config.check(
            kafka(extra={"linger.mz": "5", "sesion.timeout.ms": "5", "socket.timeout.ms": "soon", "xyzzy": "1"})
        )
    message = str(caught.value)
    assert "linger.mz is not a property of librdkafka: did you mean linger.ms?" in message
    assert "sesion.timeout.ms is not a property of librdkafka: did you mean session.timeout.ms?" in message
    assert 'Invalid value for configuration property "socket.timeout.ms"' in message
    assert message.endswith("xyzzy is not a property of librdkafka")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"session.timeout.ms": "400000"}, "max.poll.interval.ms"),
        ({"error_cb": "x"}, "callable"),
        ({"ssl.truststore.location": "x"}, "TrustStores"),
        ({"linger.ms": "50000"}, "linger"),
    ],
)
def test_contradiction_only_the_client_sees_is_refused_in_its_words(extra, reason):
    with pytest.raises(SettingsRefused, match=reason):
        config.check(kafka(extra=extra))


def test_check_prints_nothing(capfd):
    config.check(kafka(extra={"log_level": "7"}))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_table_of_the_library_knows_whose_a_property_is():
    scopes = config.scopes()
    assert (scopes["linger.ms"], scopes["fetch.min.bytes"], scopes["bootstrap.servers"]) == ("P", "C", "*")


def test_without_the_table_keys_go_to_every_client_and_no_name_is_suggested(monkeypatch):
    monkeypatch.setattr(config, "scopes", dict)
    assert config.consumer(kafka(extra={"linger.ms": "50"}))["linger.ms"] == "50"
    with pytest.raises(SettingsRefused, match=r"linger\.mz is not a property of librdkafka$"):
        config.check(kafka(extra={"linger.mz": "50"}))
