import pytest

from pipeline.core.client_properties import is_secret, parse, why_reserved

CONFLUENT_CLOUD = """\
# Required connection configs for Kafka producer, consumer, and admin
bootstrap.servers=pkc-abc.eu-central-1.aws.confluent.cloud:9092
security.protocol=SASL_SSL
sasl.mechanisms=PLAIN
sasl.username=KEY
sasl.password=a+/=\\b==

! Best practice for higher availability
session.timeout.ms = 45000
acks: all
schema.registry.url=https://psrc-x.confluent.cloud
basic.auth.credentials.source=USER_INFO
basic.auth.user.info=SRKEY:se:cret
"""


def test_file_of_confluent_cloud_becomes_settings():
    found = parse(CONFLUENT_CLOUD)
    assert found.problems == []
    assert found.values == {
        "kafka.bootstrap_servers": "pkc-abc.eu-central-1.aws.confluent.cloud:9092",
        "kafka.security.protocol": "SASL_SSL",
        "kafka.security.use_sasl": "true",
        "kafka.security.mechanism": "PLAIN",
        "kafka.security.user": "KEY",
        "kafka.security.password": "a+/=\\b==",
        "registry.url": "https://psrc-x.confluent.cloud",
        "registry.user": "SRKEY",
        "registry.password": "se:cret",
        "kafka.extra.session.timeout.ms": "45000",
        "kafka.extra.acks": "all",
    }
    assert found.written["registry.password"] == "basic.auth.user.info"


def test_windows_line_ends_and_continued_lines_are_read():
    assert parse("group.id=a\\\r\n  b\r\nclient.rack=r\r\n").values == {
        "kafka.consumer_group": "ab",
        "kafka.extra.client.rack": "r",
    }


@pytest.mark.parametrize("quote", ["'", '"'])
def test_user_and_password_in_javas_jaas_line_are_taken(quote):
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    found = parse(
        f"sasl.mechanism=PLAIN\nsasl.jaas.config={module} required username={quote}U{quote} password={quote}P=1{quote};"
    )
    assert found.problems == []
    assert found.values == {
        "kafka.security.mechanism": "PLAIN",
        "kafka.security.user": "U",
        "kafka.security.password": "P=1",
    }


def test_jaas_line_without_user_is_refused_and_passed_over_where_a_user_is_given():
    jaas = "sasl.jaas.config=com.example.LoginModule required;\n"
    assert parse(jaas).problems == [
        "sasl.jaas.config holds no username='...': give sasl.username instead",
        "sasl.jaas.config holds no password='...': give sasl.password instead",
    ]
    assert parse(jaas + "sasl.username=u\nsasl.password=p").problems == []


def test_problems_name_the_line_or_the_key_and_never_a_value():
    text = "a=1\nhunter2\nsasl.password={{ SECRET }}\nbasic.auth.user.info=hunter2\n[default]\n"
    problems = parse(f"{text}basic.auth.credentials.source=hunter2\n").problems
    assert len(problems) == 5
    assert "line 2 is not key=value" in problems
    assert "line 5 is not key=value" in problems
    assert "sasl.password is still a placeholder: put your own value in" in problems
    assert "basic.auth.user.info is not USER:PASSWORD" in problems
    assert not any("hunter2" in problem for problem in problems)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("acks", "1", "P1"),
        ("request.required.acks", "0", "P1"),
        ("enable.idempotence", "false", "P1"),
        ("retries", "0", "P1"),
        ("message.send.max.retries", "0", "P1"),
        ("delivery.report.only.error", "true", "P1"),
        ("enable.auto.commit", "true", "P2"),
        ("auto.commit.enable", "true", "P2"),
        ("enable.auto.offset.store", "true", "P2"),
        ("isolation.level", "read_uncommitted", "P3"),
        ("transactional.id", "x", "kafka.instance"),
        ("partitioner", "consistent", "P4"),
        ("partition.assignment.strategy", "cooperative-sticky", "P4"),
        ("group.remote.assignor", "uniform", "P4"),
        ("max.in.flight", "6", "P4"),
        ("max.in.flight.requests.per.connection", "1000000", "P4"),
        ("auto.offset.reset", "latest", "P5"),
        ("message.max.bytes", "1000000", "P5"),
        ("enable.partition.eof", "false", "--until-end"),
        ("enable.ssl.certificate.verification", "false", "kafka.security.ca_location"),
        ("group.id", "g", "kafka.consumer_group"),
        ("group.instance.id", "g", "kafka.instance"),
        ("metadata.broker.list", "a:1", "kafka.bootstrap_servers"),
        ("sasl.password", "x", "kafka.security.password"),
        ("compression.codec", "none", "kafka.compression"),
    ],
)
def test_key_that_carries_a_promise_is_reserved_with_the_reason(key, value, reason):
    assert reason in (why_reserved(key, value) or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("acks", "all"),
        ("acks", "-1"),
        ("enable.idempotence", "True"),
        ("auto.offset.reset", "earliest"),
        ("isolation.level", "read_committed"),
        ("retries", "10"),
        ("max.in.flight", "5"),
        ("max.in.flight", "many"),
        ("message.max.bytes", "1000000000"),
        ("linger.ms", "50"),
        ("sasl.oauthbearer.method", "oidc"),
    ],
)
def test_value_that_keeps_the_promise_is_let_through(key, value):
    assert why_reserved(key, value) is None


def test_secrets_among_client_keys_are_known():
    secret = [
        "ssl.key.password",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "ssl.key.pem",
        "sasl.jaas.config",
    ]
    assert all(map(is_secret, secret))
    assert not any(map(is_secret, ["linger.ms", "client.id", "ssl.key.location", "sasl.oauthbearer.client.id"]))
