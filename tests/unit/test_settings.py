import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.errors import SettingsRefused
from pipeline.settings import ALL, FORWARD, KAFKA, REGISTRY, WORKER, Kafka, Settings, load, show
from pipeline.sources import env_name, names

SECRET = "hunter2"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Neither the environment nor the directory of whoever runs the tests has a say."""
    for name in list(os.environ):
        if name.upper().startswith("PIPELINE_") or name == "KAFKA_CONFIG_FILE":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def env(monkeypatch):
    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def refused(overrides=None):
    with pytest.raises(SettingsRefused) as caught:
        load(overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def problems(overrides=None):
    return re.findall(r"^  - (.*)$", refused(overrides), re.MULTILINE)


def test_nothing_given_is_the_defaults():
    assert load() == Settings()


def test_each_source_gives_way_to_the_one_before_it(bare, env):
    origins = []

    def seen():
        _, rows = show({"kafka.topic": flag})
        row = next(row for row in rows if row.name == "kafka.topic")
        origins.append((row.value, row.origin))

    flag = None
    seen()
    (bare / "client.properties").write_text("client.id=x\n")
    env(KAFKA_CONFIG_FILE="client.properties")
    (bare / "pipeline.toml").write_text('[kafka]\ntopic = "toml"\n')
    seen()
    (bare / ".env").write_text("PIPELINE_KAFKA__TOPIC=dotenv\nDATABASE_URL=of-somebody-else\n")
    seen()
    env(PIPELINE_KAFKA__TOPIC="environment")
    seen()
    flag = "flag"
    seen()
    assert origins == [
        ("orders.v1", "default"),
        ("toml", "pipeline.toml"),
        ("dotenv", ".env PIPELINE_KAFKA__TOPIC"),
        ("environment", "environment PIPELINE_KAFKA__TOPIC"),
        ("flag", "flag"),
    ]


def test_toml_wins_over_the_properties_file_and_defaults_lose_to_it(bare, env):
    (bare / "client.properties").write_text("bootstrap.servers=cloud:9092\ngroup.id=cloud\nlinger.ms=7\n")
    (bare / "pipeline.toml").write_text('[kafka]\nconsumer_group = "toml"\n')
    env(KAFKA_CONFIG_FILE="client.properties", PIPELINE_KAFKA__EXTRA__CLIENT_RACK="r1")
    kafka = load().kafka
    assert (kafka.bootstrap_servers, kafka.consumer_group) == ("cloud:9092", "toml")
    assert kafka.extra == {"linger.ms": "7", "client.rack": "r1"}


def test_properties_file_may_be_named_in_dotenv(bare):
    (bare / "c.properties").write_text("bootstrap.servers=cloud:9092\n")
    (bare / ".env").write_text("KAFKA_CONFIG_FILE=c.properties\n")
    assert load().kafka.bootstrap_servers == "cloud:9092"


def test_flag_that_was_not_given_has_no_say(env):
    env(PIPELINE_KAFKA__TOPIC="t")
    assert load({"kafka.topic": None, "kafka.instance": "a"}).kafka.topic == "t"


def test_types_are_read_from_text_and_from_toml(bare, env):
    env(pipeline_kafka__message_timeout_ms="5000", PIPELINE_KAFKA__SECURITY__CA_LOCATION="~/ca.pem", HOME=str(bare))
    env(PIPELINE_KAFKA__SECURITY__PROTOCOL="ssl")
    (bare / "ca.pem").touch()
    (bare / "pipeline.toml").write_text(
        "[kafka]\nbootstrap_servers = ['a:1', '[::1]:2']\n"
        "[kafka.extra]\nlinger.ms = 5\n'socket.nagle.disable' = true\nlog_level = 3\n[registry]\ntimeout_s = 2\n"
    )
    settings = load()
    assert settings.kafka.message_timeout_ms == 5000
    assert settings.kafka.bootstrap_servers == "a:1,[::1]:2"
    assert settings.kafka.security.protocol == "SSL"
    assert settings.kafka.security.ca_location == bare / "ca.pem"
    assert settings.kafka.extra == {"linger.ms": "5", "socket.nagle.disable": "true", "log_level": "3"}
    assert settings.registry.timeout_s == 2


def test_client_keys_in_the_environment_have_underscores_for_dots(env):
    env(PIPELINE_KAFKA__EXTRA__QUEUE_BUFFERING_MAX_KBYTES="9", PIPELINE_KAFKA__EXTRA__LOG__LEVEL="3")
    assert load().kafka.extra == {"queue.buffering.max.kbytes": "9", "log_level": "3"}
    assert env_name("kafka.extra.log_level") == "PIPELINE_KAFKA__EXTRA__LOG__LEVEL"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PIPELINE_KAKFA__TOPIC", "PIPELINE_KAFKA__TOPIC"),
        ("PIPELINE_KAFKA__TOPCI", "PIPELINE_KAFKA__TOPIC"),
        ("PIPELINE_KAFKA_TOPIC", "PIPELINE_KAFKA__TOPIC"),
        ("PIPELINE_TOPIC", "PIPELINE_KAFKA__TOPIC"),
        ("PIPELINE_KAFKA__TOPIC__X", "PIPELINE_KAFKA__TOPIC"),
        ("PIPELINE_KAFKA__SECURITY__PASWORD", "PIPELINE_KAFKA__SECURITY__PASSWORD"),
        ("PIPELINE_LOCAL_KAFKA_PORT", "PIPELINE_LOCAL__KAFKA_PORT"),
        ("PIPELINE_KAFKA", "PIPELINE_KAFKA__BOOTSTRAP_SERVERS"),
        ("PIPELINE_KAFKA__EXTRA", "PIPELINE_KAFKA__EXTRA__CLIENT_RACK"),
    ],
)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_unknown_name_is_refused_with_the_nearest_one_and_without_its_value(bare, env, where, name, meant):
    if where == ".env":
        (bare / ".env").write_text(f"{name}={SECRET}\n")
    else:
        env(**{name: SECRET})
    (problem,) = problems()
    assert problem.startswith(f"{name} ({where}) is ")
    assert re.search(rf"{meant}\??$", problem)
    assert SECRET not in problem


def test_name_like_nothing_we_know_is_refused_without_a_guess(env):
    env(PIPELINE_XYZZY="1")
    assert problems() == ["PIPELINE_XYZZY (environment) is not a setting"]


@pytest.mark.parametrize(
    "line", ["kafak.topic = 'x'", "kafka.topci = 'x'", "topci = 'x'", "[kafka]\nextra = 'x'", "kafka = 1"]
)
def test_unknown_key_in_toml_is_refused(bare, line):
    (bare / "pipeline.toml").write_text(line)
    (problem,) = problems()
    assert "(pipeline.toml) is " in problem
    assert "kafka." in problem


def test_unknown_flag_is_refused():
    assert problems({"kafka.topik": "x"}) == ["kafka.topik (flag) is not a setting: did you mean kafka.topic?"]


def test_service_links_of_kubernetes_are_passed_over(env):
    env(
        PIPELINE_SERVICE_HOST="10.0.0.1",
        PIPELINE_SERVICE_PORT="8000",
        PIPELINE_SERVICE_PORT_HTTP="8000",
        PIPELINE_PORT="tcp://10.0.0.1:8000",
        PIPELINE_PORT_8000_TCP="tcp://10.0.0.1:8000",
        PIPELINE_PORT_8000_TCP_PROTO="tcp",
        PIPELINE_API_PORT_8000_TCP_ADDR="10.0.0.1",
        PIPELINE_API_SERVICE_HOST="10.0.0.1",
    )
    assert load() == Settings()


def test_times_of_the_api_are_seconds_or_carry_their_unit(env):
    keys = ("the-first-of-all-keys", "another-of-the-keys")
    env(PIPELINE_API__PUBLISH_TIMEOUT="2.5", PIPELINE_API__READ_TIMEOUT="1m", PIPELINE_API__KEYS=", ".join(keys))
    api = load().api
    assert (api.publish_timeout, api.read_timeout, api.secrets) == (2.5, 60, keys)
    assert keys[0] not in repr(api)


def test_time_of_the_api_that_is_none_and_key_that_no_header_can_carry_are_refused(env):
    env(PIPELINE_API__PUBLISH_TIMEOUT="soon", PIPELINE_API__KEYS="with blank inside")
    first, second = sorted(problems())
    assert "not keys of printable ASCII" in first
    assert "with blank" not in first
    assert "PIPELINE_API__PUBLISH_TIMEOUT=soon" in second


def test_key_that_can_be_guessed_is_refused(env):
    env(PIPELINE_API__KEYS="long-enough-to-be-a-key, secret")
    [problem] = problems()
    assert "at least 16 characters" in problem
    assert "secret" not in problem


def test_hosts_of_the_api_are_names_patterns_addresses_and_networks(env):
    env(
        PIPELINE_API__ALLOWED_HOSTS="Orders.Example., *.shop.example, 10.0.0.0/8, fd00::/8",
        PIPELINE_API__HOST="10.1.2.3",
    )
    assert load().api.hosts == ("10.1.2.3", "orders.example", "*.shop.example", "10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize("host", ["http://orders.example", "orders.example:8000", "*", "a b", "user@host", "host/path"])
def test_what_is_no_host_is_refused(env, host):
    env(PIPELINE_API__ALLOWED_HOSTS=host)
    [problem] = problems()
    assert "is no host such as" in problem


def test_port_that_is_no_service_link_is_refused(env):
    env(PIPELINE_PORT="8000")
    assert problems() == ["PIPELINE_PORT (environment) is not a setting: did you mean PIPELINE_API__PORT?"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": ""}, "PIPELINE_KAFKA__BOOTSTRAP_SERVERS (environment) is empty"),
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "host"}, "not HOST:PORT"),
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "localhost:99999"}, "99999 is no port: ports are 1 to 65535"),
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "localhost:0"}, "0 is no port: ports are 1 to 65535"),
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "a:1,,b:2"}, "not HOST:PORT"),
        ({"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "SASL_SSL://a:1"}, "without a scheme"),
        ({"PIPELINE_KAFKA__TOPIC": " "}, "PIPELINE_KAFKA__TOPIC (environment) is empty"),
        ({"PIPELINE_KAFKA__TOPIC": "a b"}, "PIPELINE_KAFKA__TOPIC=a b (environment): not a topic name"),
        ({"PIPELINE_KAFKA__TOPIC": ".."}, "not a topic name"),
        ({"PIPELINE_KAFKA__TOPIC": "x" * 250}, "not a topic name"),
        ({"PIPELINE_KAFKA__TOPIC": "orders\n"}, "not a topic name"),
        ({"PIPELINE_KAFKA__CONSUMER_GROUP": ""}, "is empty"),
        ({"PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS": "30s"}, "PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS=30s (environment): "),
        ({"PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS": "0"}, "greater than or equal to 1"),
        ({"PIPELINE_KAFKA__COMPRESSION": "lz5"}, "'lz4', 'zstd'"),
        ({"PIPELINE_REGISTRY__TIMEOUT_S": "nan"}, "PIPELINE_REGISTRY__TIMEOUT_S=nan"),
        ({"PIPELINE_LOCAL__KAFKA_PORT": "65536"}, "less than or equal to 65535"),
        ({"PIPELINE_REGISTRY__URL": "localhost:8081"}, "not a URL"),
        ({"PIPELINE_REGISTRY__URL": "ftp://host"}, "not a URL"),
        ({"PIPELINE_REGISTRY__URL": "https://a,https://b"}, "not a URL"),
        ({"PIPELINE_REGISTRY__URL": "https://h:port"}, "not a URL"),
        ({"PIPELINE_STORE__URL": "orders.db"}, "not a database URL"),
    ],
)
def test_malformed_value_is_refused_as_it_was_written(env, variables, expected):
    env(**variables)
    (problem,) = problems()
    assert expected in problem


def test_true_is_no_number(bare):
    (bare / "pipeline.toml").write_text("[kafka]\nmessage_timeout_ms = true\n")
    assert problems() == ["kafka.message_timeout_ms=true (pipeline.toml): not a number"]


SASL = {
    "PIPELINE_KAFKA__SECURITY__USE_SASL": "true",
    "PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_SSL",
    "PIPELINE_KAFKA__SECURITY__USER": "me",
    "PIPELINE_KAFKA__SECURITY__PASSWORD": SECRET,
}


@pytest.mark.parametrize(
    "variables",
    [
        SASL,
        SASL | {"PIPELINE_KAFKA__SECURITY__MECHANISM": "plain"},
        # SCRAM proves the password without sending it; PLAIN without encryption stays on this machine.
        SASL | {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_PLAINTEXT", "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "k:9092"},
        SASL | {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_PLAINTEXT", "PIPELINE_KAFKA__SECURITY__MECHANISM": "PLAIN"},
        {
            "PIPELINE_KAFKA__SECURITY__USE_SASL": "true",
            "PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_SSL",
            "PIPELINE_KAFKA__SECURITY__MECHANISM": "OAUTHBEARER",
        },
        {
            "PIPELINE_REGISTRY__USER": "me",
            "PIPELINE_REGISTRY__PASSWORD": SECRET,
            "PIPELINE_REGISTRY__URL": "http://127.0.0.1:80",
        },
    ],
)
def test_security_that_agrees_with_itself_is_accepted(env, variables):
    env(**variables)
    assert load()


@pytest.mark.parametrize(
    ("variables", "named", "fix"),
    [
        (
            {"PIPELINE_KAFKA__DEAD_LETTER_TOPIC": "orders.v1"},
            ["PIPELINE_KAFKA__DEAD_LETTER_TOPIC=orders.v1", "kafka.topic=orders.v1 (default)"],
            "give the dead letters their own",
        ),
        (
            {name: value for name, value in SASL.items() if not name.endswith("USER")},
            ["PIPELINE_KAFKA__SECURITY__USE_SASL=true", "SCRAM-SHA-512"],
            "needs kafka.security.user",
        ),
        (
            {name: value for name, value in SASL.items() if not name.endswith("PASSWORD")},
            ["PIPELINE_KAFKA__SECURITY__USE_SASL=true"],
            "needs kafka.security.password",
        ),
        (
            {"PIPELINE_KAFKA__SECURITY__USER": "me"},
            ["PIPELINE_KAFKA__SECURITY__USER=me", "kafka.security.use_sasl=false (default)"],
            "set kafka.security.use_sasl to true",
        ),
        (
            SASL | {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SSL"},
            ["PIPELINE_KAFKA__SECURITY__PROTOCOL=SSL", "PIPELINE_KAFKA__SECURITY__USE_SASL=true"],
            "set kafka.security.protocol to SASL_SSL",
        ),
        (
            {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_SSL"},
            ["PIPELINE_KAFKA__SECURITY__PROTOCOL=SASL_SSL", "kafka.security.use_sasl=false (default)"],
            "set kafka.security.use_sasl to true",
        ),
        (
            SASL
            | {
                "PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_PLAINTEXT",
                "PIPELINE_KAFKA__SECURITY__MECHANISM": "PLAIN",
                "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092,kafka:9092",
            },
            ["MECHANISM=PLAIN", "PROTOCOL=SASL_PLAINTEXT", "BOOTSTRAP_SERVERS=localhost:9092,kafka:9092"],
            "set kafka.security.protocol to SASL_SSL",
        ),
        (
            {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SSL", "PIPELINE_KAFKA__SECURITY__CA_LOCATION": "no/ca.pem"},
            ["PIPELINE_KAFKA__SECURITY__CA_LOCATION=no/ca.pem"],
            "there is no such file",
        ),
        (
            {"PIPELINE_KAFKA__SECURITY__CA_LOCATION": "/"},
            ["PIPELINE_KAFKA__SECURITY__CA_LOCATION=/", "kafka.security.protocol=PLAINTEXT"],
            "set kafka.security.protocol to SSL",
        ),
        (
            {"PIPELINE_REGISTRY__USER": "me"},
            ["PIPELINE_REGISTRY__USER=me", "registry.password (not set)"],
            "set both or none",
        ),
        (
            {
                "PIPELINE_REGISTRY__USER": "me",
                "PIPELINE_REGISTRY__PASSWORD": SECRET,
                "PIPELINE_REGISTRY__URL": "http://registry",
            },
            ["PIPELINE_REGISTRY__USER=me", "PIPELINE_REGISTRY__URL=http://registry"],
            "use an https:// URL",
        ),
        (
            {"PIPELINE_REGISTRY__CA_LOCATION": "/"},
            ["PIPELINE_REGISTRY__CA_LOCATION=/", "registry.url=http://localhost"],
            "use an https:// URL",
        ),
        (
            {"PIPELINE_KAFKA__EXTRA__AUTO_OFFSET_RESET": "latest"},
            ["PIPELINE_KAFKA__EXTRA__AUTO_OFFSET_RESET=latest"],
            "promise P5",
        ),
        (
            {"PIPELINE_KAFKA__EXTRA__SASL_PASSWORD": SECRET},
            ["PIPELINE_KAFKA__EXTRA__SASL_PASSWORD=••••"],
            "use kafka.security.password",
        ),
    ],
)
def test_contradiction_names_both_settings_and_the_fix(env, variables, named, fix):
    env(**variables)
    (problem,) = problems()
    assert all(name in problem for name in named), problem
    assert fix in problem


def test_file_of_confluent_cloud_is_taken_as_it_is(bare, env):
    (bare / "client.properties").write_text(
        "bootstrap.servers=pkc.confluent.cloud:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=PLAIN\n"
        f"sasl.username=KEY\nsasl.password={SECRET}\nsession.timeout.ms=45000\nclient.id=c\nacks=all\n"
        "schema.registry.url=https://psrc.confluent.cloud\nbasic.auth.credentials.source=USER_INFO\n"
        "basic.auth.user.info=SR:s3cret\n"
    )
    env(KAFKA_CONFIG_FILE=str(bare / "client.properties"))
    settings = load()
    assert settings.kafka.security.use_sasl
    assert settings.kafka.security.password
    assert settings.kafka.security.password.get_secret_value() == SECRET
    assert settings.registry.user == "SR"
    assert settings.kafka.extra == {"session.timeout.ms": "45000", "client.id": "c", "acks": "all"}


@pytest.mark.parametrize(
    ("file", "content"),
    [("pipeline.toml", b"a = ["), ("pipeline.toml", b"\xff"), (".env", b"\xff"), ("c.properties", b"\xff")],
)
def test_file_that_cannot_be_read_is_refused_by_name(bare, env, file, content):
    env(KAFKA_CONFIG_FILE="c.properties")
    (bare / "c.properties").touch()
    (bare / file).write_bytes(content)
    (problem,) = problems()
    assert f"{file} cannot be read" in problem


def test_properties_file_that_is_not_there_is_refused(env):
    env(KAFKA_CONFIG_FILE="absent")
    assert problems() == ["KAFKA_CONFIG_FILE=absent cannot be read: No such file or directory"]


def test_everything_wrong_is_told_at_once(bare, env):
    (bare / "pipeline.toml").write_text("[kafka]\ntopci = 'x'\ncompression = 'lz5'\n")
    (bare / ".env").write_text("PIPELINE_KAFKA__CONSUMER_GROUP=\n")
    env(PIPELINE_KAFKA__DEAD_LETTER_TOPIC="orders.v1", PIPELINE_REGISTRY__USER="me", PIPELINE_X="1")
    assert len(problems()) == 6


def test_default_in_place_of_a_malformed_value_contradicts_nothing(env):
    # Without its protocol, which is misspelt, use_sasl would seem to disagree with the default PLAINTEXT.
    env(**SASL | {"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_TLS"})
    (problem,) = problems()
    assert "PIPELINE_KAFKA__SECURITY__PROTOCOL=SASL_TLS" in problem


@pytest.mark.parametrize(
    "variables",
    [
        {"PIPELINE_KAFKA__SECURITY__PASSWORD": SECRET},
        {"PIPELINE_KAFKA__SECURITY__PASSWORD": f"{SECRET}://"},
        {"PIPELINE_STORE__URL": SECRET},
        {"PIPELINE_STORE__URL": f"me:{SECRET}@host/db"},
        {"PIPELINE_REGISTRY__URL": f"https://me:{SECRET}@registry"},
        {"PIPELINE_REGISTRY__URL": f"me:{SECRET}@registry"},
        {"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": f"me:{SECRET}@host:1"},
        {"PIPELINE_KAFKA__PASSWORD": SECRET},
        {"PIPELINE_REGISTRY__PASSWORD": SECRET},
        {"PIPELINE_KAFKA__EXTRA__SASL_PASSWORD": SECRET},
    ],
)
def test_no_secret_is_in_a_refusal(env, variables):
    env(**variables)
    with pytest.raises(SettingsRefused) as caught:
        load()
    error = caught.value
    while error is not None:
        assert SECRET not in f"{error!r}{error}"
        error = error.__cause__ or error.__context__


def test_no_secret_is_in_the_settings_as_printed(env):
    env(**SASL, PIPELINE_STORE__URL=f"postgresql://me:{SECRET}@h/db", PIPELINE_KAFKA__EXTRA__SSL_KEY_PASSWORD=SECRET)
    settings, rows = show()
    assert SECRET not in f"{settings!r}{settings}{rows}"
    values = {row.name: row.value for row in rows}
    assert values["kafka.security.password"] == "••••"
    assert values["store.url"] == "postgresql://••••"
    assert values["kafka.extra.ssl.key.password"] == "••••"
    assert values["registry.password"] is None


def test_settings_are_frozen_and_take_no_unknown_name():
    with pytest.raises(ValidationError):
        Settings().kafka.topic = "x"
    with pytest.raises(ValidationError):
        Kafka(tpoic="x")


def test_every_setting_is_on_its_page():
    """The page is the table of the settings: name, environment name and default, in the order of the tree."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(PIPELINE_\w+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    _, defaults = show()
    expected = [
        (
            row.name,
            env_name(row.name),
            "–" if row.value is None else f"`{str(row.value).lower() if isinstance(row.value, bool) else row.value}`",
        )
        for row in defaults
    ]
    assert rows == expected
    assert [name for name, *_ in rows] == [name for name, _ in names(Settings)]


LONG_COMMITS = {"PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS": "1000", "PIPELINE_FORWARD__COMMIT_INTERVAL_S": "5"}
CONSUMED = {"PIPELINE_KAFKA__TOPIC": "orders.by-customer.v1"}
# Settings that contradict each other, and the commands that are refused for it.
CONCERNS = {
    "forward's topic": (CONSUMED, {FORWARD}),
    "forward's transaction": (LONG_COMMITS, {FORWARD}),
    "forward's group": ({"PIPELINE_FORWARD__GROUP": "my group"}, {FORWARD}),
    "the worker's group": ({"PIPELINE_KAFKA__CONSUMER_GROUP": "my group"}, {WORKER}),
    "dead letters": ({"PIPELINE_KAFKA__DEAD_LETTER_TOPIC": "orders.v1"}, {WORKER, FORWARD}),
    "back-off": ({"PIPELINE_RETRY__BACKOFF_S": "9"}, {WORKER, FORWARD}),
    "SASL": ({"PIPELINE_KAFKA__SECURITY__PROTOCOL": "SASL_SSL"}, {KAFKA}),
    "a property": ({"PIPELINE_KAFKA__EXTRA__ACKS": "1"}, {KAFKA}),
    "the registry's user": ({"PIPELINE_REGISTRY__USER": "me"}, {REGISTRY}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONCERNS)
def test_command_is_refused_for_what_it_works_with_and_for_nothing_else(env, case):
    variables, concerned = CONCERNS[case]
    env(**variables)
    load(uses=ALL - concerned)
    for each in concerned:
        with pytest.raises(SettingsRefused):
            load(uses={each})


def test_forward_says_which_of_the_two_topics_it_would_write_into(env):
    env(**CONSUMED)
    (problem,) = problems()
    assert "PIPELINE_KAFKA__TOPIC=orders.by-customer.v1 (environment)" in problem
    assert "dead_letter" not in problem


@pytest.mark.parametrize("at_the_end", ["\n", "\r\n"])
def test_end_of_the_line_of_a_secrets_file_is_no_part_of_the_secret(env, at_the_end):
    env(**SASL | {"PIPELINE_KAFKA__SECURITY__PASSWORD": f" {SECRET} {at_the_end}"})
    password = load().kafka.security.password
    assert password is not None
    assert password.get_secret_value() == f" {SECRET} "


@pytest.mark.parametrize("value", [" workers", "workers ", "workers\n", "\tworkers"])
@pytest.mark.parametrize(
    "name", ["PIPELINE_KAFKA__CONSUMER_GROUP", "PIPELINE_KAFKA__INSTANCE", "PIPELINE_KAFKA__EXTRA__CLIENT_RACK"]
)
def test_blank_around_a_value_is_refused(env, name, value):
    env(**{name: value})
    assert problems() == [f"{name} (environment) begins or ends with a blank: leave it out"]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_that_came_along_are_refused_in_the_environment_and_taken_away_in_dotenv(bare, env, quote):
    (bare / ".env").write_text(f"PIPELINE_KAFKA__CONSUMER_GROUP={quote}g{quote}\n")
    assert load().kafka.consumer_group == "g"
    env(**SASL | {"PIPELINE_KAFKA__SECURITY__PASSWORD": f"{quote}{SECRET}{quote}"})
    (problem,) = problems()
    assert "holds quotes around its value" in problem
    assert SECRET not in problem


def test_files_that_begin_with_a_byte_order_mark_are_read(bare, env):
    for name, text in {
        "pipeline.toml": "[kafka]\ntopic = 't'\n",
        ".env": "PIPELINE_KAFKA__CONSUMER_GROUP=g\n",
        "c.properties": "client.id=x\n",
    }.items():
        (bare / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    env(KAFKA_CONFIG_FILE="c.properties")
    kafka = load().kafka
    assert (kafka.topic, kafka.consumer_group, kafka.extra) == ("t", "g", {"client.id": "x"})


def test_line_of_dotenv_that_cannot_be_read_is_refused_by_its_number(bare):
    (bare / ".env").write_text(f"A=1\nPIPELINE_REGISTRY__PASSWORD {SECRET}\nPIPELINE_KAFKA__INSTANCE='open\n")
    found = problems()
    assert ".env line 2 is not NAME=VALUE" in found
    assert not any(SECRET in each for each in found)


def test_reference_to_nothing_in_dotenv_is_refused_and_to_something_is_filled_in(bare, env):
    (bare / ".env").write_text("PIPELINE_KAFKA__CONSUMER_GROUP=a${STAGE}\nPIPELINE_KAFKA__INSTANCE=${NONE:-x}\n")
    assert problems() == [".env line 1: PIPELINE_KAFKA__CONSUMER_GROUP refers to a name in ${…} that is not set"]
    env(STAGE="b")
    kafka = load().kafka
    assert (kafka.consumer_group, kafka.instance) == ("ab", "x")


CREDENTIALS = {"PIPELINE_REGISTRY__USER": "me", "PIPELINE_REGISTRY__PASSWORD": SECRET}


def test_address_in_dotenv_gets_no_credentials_of_the_environment(bare, env):
    (bare / ".env").write_text("PIPELINE_REGISTRY__URL=https://elsewhere.example\n")
    assert load().registry.url == "https://elsewhere.example"
    env(**CREDENTIALS)
    found = problems()
    assert len(found) == 2
    assert (
        "PIPELINE_REGISTRY__URL=https://elsewhere.example (.env) would get registry.password of environment"
        in found[0] + found[1]
    )
    assert not any(SECRET in each for each in found)
    env(PIPELINE_REGISTRY__URL="https://registry.example")
    assert load().registry.url == "https://registry.example"


def test_address_in_a_file_that_dotenv_names_gets_none_either(bare, env):
    (bare / "c.properties").write_text(
        "bootstrap.servers=elsewhere:9092\nschema.registry.url=https://elsewhere.example\n"
    )
    (bare / ".env").write_text("KAFKA_CONFIG_FILE=c.properties\n")
    env(**SASL | CREDENTIALS)
    assert len(problems()) == 3
    env(KAFKA_CONFIG_FILE="c.properties")
    load()


def test_address_in_dotenv_goes_with_its_own_credentials_and_in_toml_with_those_of_the_environment(bare, env):
    dotenv = bare / ".env"
    dotenv.write_text(
        "".join(f"{name}={value}\n" for name, value in CREDENTIALS.items()) + "PIPELINE_REGISTRY__URL=https://r\n"
    )
    assert load().registry.url == "https://r"
    dotenv.unlink()
    (bare / "pipeline.toml").write_text("[registry]\nurl = 'https://r'\n")
    env(**CREDENTIALS)
    assert load().registry.url == "https://r"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("PIPELINE_STORE__URL", f"postgresql+psycopg://u:{SECRET}://{SECRET}@h/db", "postgresql+psycopg://••••"),
        ("PIPELINE_STORE__URL", f"postgresql+psycopg://u:{SECRET}@{SECRET}@h/db", "postgresql+psycopg://••••"),
        ("PIPELINE_STORE__URL", f"postgresql://h/db?user=u&password={SECRET}", "postgresql://••••"),
        ("PIPELINE_REGISTRY__URL", f"https://h/?k={SECRET}", "https://••••"),
        ("PIPELINE_KAFKA__EXTRA__SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", f"https://u:{SECRET}@idp/t", "https://••••"),
        ("PIPELINE_KAFKA__EXTRA__CLIENT_RACK", f"x://u:{SECRET}@idp/t", "••••"),
    ],
)
def test_secret_part_of_an_address_is_not_shown(env, name, value, shown):
    env(**{name: value})
    _, rows = show()
    assert SECRET not in str(rows)
    assert shown in {row.value for row in rows}


def test_keys_of_javas_client_are_shown_as_passed_over(bare, env):
    (bare / "c.properties").write_bytes(b"# caf\xe9\nkey.serializer=org.example.K\nclient.id=x\n")
    env(KAFKA_CONFIG_FILE="c.properties")
    settings, rows = show()
    assert settings.kafka.extra == {"client.id": "x"}
    assert rows[-1] == ("key.serializer", None, "c.properties (passed over: of Java's client alone)")
