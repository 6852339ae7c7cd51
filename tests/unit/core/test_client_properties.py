import re

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
        *(
            ("enable.ssl.certificate.verification", value, "the broker is the one")
            for value in ("False", "0", "no", "F", "")
        ),
        *(
            ("ssl.endpoint.identification.algorithm", value, "the broker is the one")
            for value in ("none", "NONE", "", " ")
        ),
        ("enable.sasl.oauthbearer.unsecure.jwt", "true", "no signature"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "1", "no signature"),
        ("plugin.library.paths", "./evil.so", "run a library"),
        ("Plugin.Library.Paths", "./evil.so", "run a library"),
        (" plugin.library.paths", "", "run a library"),
        ("ssl.engine.location", "./evil.so", "run a library"),
        ("ssl.providers", "evil", "run a library"),
        ("sasl.kerberos.kinit.cmd", "touch x", "run a command"),
        ("ssl.cipher.suites", "NULL", "without encryption"),
        ("ssl.cipher.suites", "ECDHE-RSA-AES256-GCM-SHA384:aNULL", "without encryption"),
        ("ssl.cipher.suites", "TLS_RSA_WITH_NULL_SHA256", "without encryption"),
        ("ssl.cipher.suites", "DEFAULT@SECLEVEL=0", "without encryption"),
        ("sasl.oauthbearer.token.endpoint.url", "http://idp.example/token", "unencrypted"),
        ("test.mock.num.brokers", "3", "P1"),
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
        ("enable.ssl.certificate.verification", "True"),
        ("ssl.endpoint.identification.algorithm", "HTTPS"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "false"),
        ("ssl.cipher.suites", "ECDHE-RSA-AES256-GCM-SHA384:!aNULL:!eNULL"),
        ("sasl.oauthbearer.token.endpoint.url", "https://idp.example/token"),
        ("sasl.oauthbearer.token.endpoint.url", "http://localhost:8080/token"),
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
        "SSL.Key.Passwd",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "ssl.keystore.key",
        "schema.registry.basic.auth.user.info",
        "bearer.auth.token",
        "my.api.key",
    ]
    assert all(map(is_secret, secret))
    assert not any(map(is_secret, ["linger.ms", "client.id", "ssl.key.location", "sasl.oauthbearer.client.id"]))


def test_file_as_javas_own_writer_writes_it_is_read_back():
    text = (
        "#Sat Nov 28 10:00:00 GMT 2026\nbootstrap.servers=broker\\:9092\nbasic.auth.user.info=KEY\\:a\\=b\\\\c\\#d\\!\n"
        "sasl.username=u\\u00e9\nsasl.password=\\ x\\\\y\n"
    )
    assert parse(text).values == {
        "kafka.bootstrap_servers": "broker:9092",
        "registry.user": "KEY",
        "registry.password": "a=b\\c#d!",
        "kafka.security.user": "ué",
        "kafka.security.password": "x\\y",
    }


def test_backslash_of_librdkafkas_own_password_that_java_would_drop_is_kept():
    assert parse("sasl.password=a\\b\\d").values["kafka.security.password"] == "a\\b\\d"


@pytest.mark.parametrize("line", ["sasl.password=pa\\nss", "sasl.username=a\\tb", "basic.auth.user.info=u:C\\rx"])
def test_password_that_a_backslash_would_make_another_one_is_refused_with_its_line(line):
    (problem,) = parse(f"client.id=x\n{line}").problems
    assert problem.startswith("line 2: ")
    assert "control character" in problem


PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@pytest.mark.parametrize(
    ("line", "user", "password"),
    [
        (f'{PLAIN} required username="a b" password="c d";', "a b", "c d"),
        (f"{PLAIN} required username=alice password=s3cret;", "alice", "s3cret"),
        (f'{PLAIN} REQUIRED username = "u" password = "p" ;', "u", "p"),
        (f'{PLAIN} required password="p" serviceName=kafka username="u";', "u", "p"),
        (f'{SCRAM} required \\\n   username="u" \\\n   password="p";', "u", "p"),
        (f'{SCRAM} required username="u" password="p\\\\"q";', "u", 'p"q'),
        (f'{SCRAM} required username=\\"u\\" password=\\"p\\";', "u", "p"),
        (f'{SCRAM} required username="u" password="p;\'=#!:/*//";', "u", "p;'=#!:/*//"),
        (f"kafkashaded.{SCRAM} required username='u' password='p';", "u", "p"),
        (f'{SCRAM} required /* who */ username="u" password="p"; // end', "u", "p"),
        (f'{SCRAM} required username="u" password="\\\\u00e9x";', "u", "u00e9x"),
    ],
)
def test_jaas_line_is_read_as_kafka_reads_it(line, user, password):
    found = parse(f"sasl.jaas.config={line}\n")
    assert found.problems == []
    assert found.values == {"kafka.security.user": user, "kafka.security.password": password}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'{PLAIN} required username="u" password="hunter2"', "does not end with a ';'"),
        (f'{PLAIN} required username="u" password="hunter2;', "does not end with a ';'"),
        (f'{PLAIN} required username="u" password="hun"ter2";', "NAME=VALUE|no value"),
        (f"{PLAIN} required username=u password=1hunter2;", "no value that can be read for password"),
        (f"{PLAIN} required username=u password=hunter/2;", "does not end with a ';'"),
        (f"{PLAIN} required username=u password=;", "no value that can be read for password"),
        (f'{PLAIN} username="u" password="hunter2";', "'required'"),
        (f'{SCRAM} required username="u" password="hunter2" tokenauth="true";', "delegation token"),
        (f'{PLAIN} required a=b; {PLAIN} required username="u" password="hunter2";', "more than one"),
        ('com.sun.security.auth.module.Krb5LoginModule required keyTab="hunter2";', "Kerberos"),
        (f"{OAUTH} required unsecuredLoginStringClaim_sub='hunter2';", "clientId"),
        ("", "names no login module"),
    ],
)  # fmt: skip
def test_jaas_line_that_kafka_could_not_read_is_refused_with_its_line_and_without_the_password(line, says):
    found = parse(f"client.id=x\nsasl.jaas.config={line}\n")
    (problem,) = found.problems
    assert problem.startswith("line 2: sasl.jaas.config ")
    assert re.search(says, problem), problem
    assert "hunter" not in problem
    assert "kafka.security.password" not in found.values


def test_client_of_an_oauth_login_module_is_taken():
    found = parse(
        "sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=https://idp/token\n"
        "sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \\\n"
        "  clientId='c' clientSecret='s=1' scope='a b' extension_logicalCluster='lkc-1' extension_identityPoolId='p';\n"
    )
    assert found.problems == []
    assert {name.removeprefix("kafka.extra.sasl.oauthbearer."): value for name, value in found.values.items()} == {
        "kafka.security.mechanism": "OAUTHBEARER",
        "token.endpoint.url": "https://idp/token",
        "method": "oidc",
        "client.id": "c",
        "client.secret": "s=1",
        "scope": "a b",
        "extensions": "logicalCluster=lkc-1,identityPoolId=p",
    }


def test_keys_of_javas_client_alone_are_passed_over_by_name_and_others_are_not():
    found = parse("key.serializer=X\nmax.block.ms=5\nssl.protocol=TLSv1.3\nlinger.mz=5\nfetch.max.wait.ms=100\n")
    assert found.passed_over == ["key.serializer", "max.block.ms", "ssl.protocol"]
    assert found.values == {"kafka.extra.linger.mz": "5", "kafka.extra.fetch.wait.max.ms": "100"}


def test_javas_stores_in_pem_are_taken_and_its_own_formats_are_refused():
    pem = "ssl.truststore.type=PEM\nssl.truststore.location=/ca.pem\nssl.keystore.type=PEM\nssl.keystore.location=/me.pem\n"
    assert parse(pem).values == {
        "kafka.security.ca_location": "/ca.pem",
        "kafka.extra.ssl.certificate.location": "/me.pem",
        "kafka.extra.ssl.key.location": "/me.pem",
    }
    (problem,) = parse("ssl.truststore.location=/store.jks\nssl.truststore.password=hunter2\n").problems
    assert "line 1: ssl.truststore.location is a store of Java's" in problem
    assert parse("ssl.truststore.location=/store.jks\nssl.ca.location=/ca.pem\n").problems == []
    (problem,) = parse("ssl.keystore.type=JKS\nssl.keystore.location=/store.jks\n").problems
    assert "PKCS12" in problem


def test_javas_spellings_of_values_are_taken():
    found = parse(
        "partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor\ngroup.protocol=CONSUMER\n"
    )
    assert found.values == {"kafka.extra.partition.assignment.strategy": "range", "kafka.group_protocol": "consumer"}
