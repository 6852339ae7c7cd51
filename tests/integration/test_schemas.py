"""`python -m pipeline.schemas` on a real registry, with subjects of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from threading import Thread

import pytest

from pipeline.errors import RegistryUnavailable, SchemaRefused, SchemaUnknown
from pipeline.kafka.registry import Registry
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroReader, AvroWriter
from tests.unit.serde.test_schema_rules import DIFFERENT, SAME

pytestmark = pytest.mark.integration

SCHEMAS = Path(__file__).parents[2] / "schemas"
ORDER = {
    "order_id": "536365",
    "customer_id": "17850",
    "amount": Decimal("139.12"),
    "timestamp_utc": datetime(2010, 12, 1, 8, 26, tzinfo=UTC),
}


@pytest.fixture
def registry(stack):
    with Registry(stack.registry_url) as registry:
        registry.wait_until_reachable(30)
        yield registry


@pytest.fixture
def subject():
    return f"t{uuid.uuid4().hex[:8]}-value"


@pytest.fixture
def files(tmp_path, subject):
    """A directory with a copy of OrderPlaced as the subject's v1; `files(2, change)` writes a changed v2."""
    folder = tmp_path / "schemas" / subject
    folder.mkdir(parents=True)
    v1 = shutil.copy(SCHEMAS / "orders.v1-value" / "v1.avsc", folder)

    def write(version, change):
        schema = json.loads(Path(v1).read_text())
        change(schema)
        (folder / f"v{version}.avsc").write_text(json.dumps(schema))
        return folder.parent

    write.directory = folder.parent
    write.folder = folder
    return write


@pytest.fixture
def run(tmp_path, stack, files):
    """The real command, outside the checkout, on those files and the registry of the run."""

    def run(*arguments, url=stack.registry_url):
        where = () if arguments[0] == "check" else ("--registry-url", url)
        return subprocess.run(_command(*arguments, "--dir", files.directory, *where), check=False, **_options(tmp_path))

    return run


def _command(*arguments):
    return [sys.executable, "-m", "pipeline.schemas", *map(str, arguments)]


def _options(cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    return {"cwd": cwd, "env": environment, "capture_output": True, "text": True, "timeout": 60}


def add(**field):
    return lambda schema: schema["fields"].append(field)


def test_registering_twice_changes_nothing(run, registry, subject):
    first, second = run("register", "--json"), run("register", "--json")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    [line], [again] = first.stdout.splitlines(), second.stdout.splitlines()
    assert json.loads(line)["registered"] == 1
    assert json.loads(again)["registered"] == 0
    [entry] = json.loads(again)["versions"]
    assert entry == {**json.loads(line)["versions"][0], "new": False}
    [there] = registry.versions(subject)
    assert (entry["id"], entry["registered_as"]) == (there.id, there.version)
    assert registry.compatibility(subject) == "BACKWARD_TRANSITIVE"
    assert second.stderr == ""


def test_field_without_default_is_refused_by_check_and_by_register(run, registry, subject, files):
    assert run("register").returncode == 0
    files(2, add(name="channel", type="string"))
    for command in ("check", "register"):
        refused = run(command)
        assert refused.returncode == 2
        assert refused.stdout == ""
        assert f"✖ {subject} v2 cannot read v1: OrderPlaced.channel: field-without-default: " in refused.stderr
        assert "Fix: give it a default" in refused.stderr
    assert [one.version for one in registry.versions(subject)] == [1]


def test_field_with_default_is_registered_and_old_records_still_read(run, registry, subject, files):
    assert run("register").returncode == 0
    directory = files(2, add(name="channel", type="string", default="web"))
    assert run("check").returncode == 0
    registered = run("register")
    assert registered.returncode == 0, registered.stderr
    assert [line.split()[-1] for line in registered.stdout.splitlines()] == ["there", "registered"]

    v1, v2 = schema_files.load(directory).subject(subject).versions
    ids = [registry.lookup_id(subject, one.text) for one in (v1, v2)]
    assert ids == [one.id for one in registry.versions(subject)]
    old = AvroWriter(v1.schema, ids[0]).encode(ORDER)
    reader = AvroReader(v2.schema, registry.schema_by_id)
    assert reader.decode(old) == {**ORDER, "channel": "web"}


def test_change_of_scale_is_refused_where_the_registry_takes_it(run, registry, subject, files):
    assert run("register").returncode == 0

    def rescale(schema):
        schema["fields"][2]["type"]["scale"] = 4

    path = files(2, rescale) / subject / "v2.avsc"
    refused = run("register")
    assert refused.returncode == 2
    assert "OrderPlaced.amount: scale-changed: its scale was 2 and is now 4" in refused.stderr
    # The second lock alone would have let it in: that is why the first one is ours.
    registry.register(subject, path.read_text())
    assert len(registry.versions(subject)) == 2


def test_released_version_that_was_edited_is_refused_and_shown(run, files, subject):
    assert run("register").returncode == 0
    assert run("diff").returncode == 0
    files(1, add(name="channel", type="string", default="web"))
    refused = run("register")
    assert refused.returncode == 2
    assert f"{subject} v1 is not what was released" in refused.stderr
    shown = run("diff")
    assert shown.returncode == 1
    assert '    + OrderPlaced.channel: string, default "web"' in shown.stdout.splitlines()
    assert json.loads(run("diff", "--json").stdout)["differences"][0]["subject"] == subject


def test_nothing_is_registered_when_one_of_two_subjects_is_refused(run, registry, files, subject):
    other = files.directory / f"a{subject}"
    shutil.copytree(SCHEMAS / "orders.dlq.v1-value", other)
    files(2, add(name="channel", type="string"))
    assert run("register").returncode == 2
    assert registry.versions(other.name) == registry.versions(subject) == []


def test_own_refusal_of_the_registry_is_passed_on(registry, subject):
    registry.register(subject, '{"type": "record", "name": "A", "fields": []}')
    registry.set_compatibility(subject, "BACKWARD_TRANSITIVE")
    with pytest.raises(SchemaRefused, match=r"refuses it \(HTTP 4.."):
        registry.register(subject, '{"type": "record", "name": "A", "fields": [{"name": "a", "type": "int"}]}')
    with pytest.raises(SchemaRefused, match="HTTP 422"):
        registry.register(subject, "{")


def test_subjects_are_listed_with_versions_ids_and_level(run, registry, subject):
    assert "not registered (make register-schemas)" in run("list").stdout
    assert run("register").returncode == 0
    [there] = registry.versions(subject)
    assert run("list").stdout == f"{subject}  BACKWARD_TRANSITIVE  v1 id {there.id}\n"
    row = {
        "subject": subject,
        "compatibility": "BACKWARD_TRANSITIVE",
        "versions": [{"version": 1, "id": there.id}],
    }
    [line] = run("list", "--json").stdout.splitlines()
    assert json.loads(line) == [row]
    assert row in json.loads(run("list", "--json", "--all").stdout)


def test_two_who_register_at_once_register_once(tmp_path, stack, registry, subject, files):
    command = _command("register", "--json", "--dir", files.directory, "--registry-url", stack.registry_url)
    options = {key: value for key, value in _options(tmp_path).items() if key in ("cwd", "env", "text")}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, **options) for _ in range(2)]
    ids = {json.loads(one.communicate(timeout=60)[0])["versions"][0]["id"] for one in both}
    assert [one.returncode for one in both] == [0, 0]
    [there] = registry.versions(subject)
    assert ids == {there.id}


def test_schema_is_found_by_content_whatever_its_spelling(registry, subject, files):
    [file] = schema_files.load(files.directory).subject(subject).versions
    with pytest.raises(SchemaRefused, match="not registered"):
        registry.lookup_id(subject, file.text)
    registered = registry.register(subject, file.text)
    for text in (json.dumps(file.schema), json.dumps(file.schema, indent=8, sort_keys=True)):
        assert registry.lookup_id(subject, text) == registered
    other = {**file.schema, "fields": file.schema["fields"][:3]}
    with pytest.raises(SchemaRefused, match="not registered"):
        registry.lookup_id(subject, json.dumps(other))


def test_unknown_id_is_told_from_an_outage(registry):
    with pytest.raises(SchemaUnknown):
        registry.schema_by_id(2_000_000_000)


def test_absent_registry_is_given_up_with_exit_1(run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        absent = run("register", "--timeout", "1", url=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert absent.returncode == 1
    assert absent.stdout == ""
    assert "does not answer" in absent.stderr
    assert "make up" in absent.stderr
    assert "PIPELINE_REGISTRY__URL" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_silent_registry_is_given_up_with_exit_1(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        absent = run("list", "--timeout", "1", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert absent.returncode == 1
    assert "does not answer" in absent.stderr


def test_wrong_path_is_told_from_an_outage(run, stack):
    wrong = run("diff", url=stack.registry_url.partition("/apis")[0] + "/apis/nope")
    assert wrong.returncode == 1
    assert "does not answer like a schema registry" in wrong.stderr


def test_broken_file_is_refused_before_the_registry_is_asked(run, files):
    (files.folder / "v2.avsc").write_text("{")
    for command in ("check", "register", "diff", "list"):
        refused = run(command, url="http://127.0.0.1:1") if command != "check" else run(command)
        assert refused.returncode == 2
        assert "v2.avsc: no valid JSON" in refused.stderr


def test_gate_and_registry_agree_on_what_is_another_version(registry):
    for case, (first, second) in {**SAME, **DIFFERENT}.items():
        subject = f"t{uuid.uuid4().hex[:8]}-value"
        ids = {registry.register(subject, json.dumps(one)) for one in (first, second)}
        assert len(ids) == (1 if case in SAME else 2), case


def test_old_version_that_was_deleted_stays_deleted_and_is_said(run, registry, subject, files):
    files(2, add(name="channel", type="string", default="web"))
    assert run("register").returncode == 0
    registry._client.delete_version(subject, 1)
    again = run("register")
    assert (again.returncode, f"! {subject} v1 was deleted in the registry, and stays deleted" in again.stderr) == (
        0,
        True,
    )
    assert [one.version for one in registry.versions(subject)] == [2]
    shown = run("diff")
    assert (shown.returncode, shown.stdout) == (1, f"{subject}: v1 was deleted in the registry, and stays deleted\n")


def test_level_that_asks_for_more_is_raised_not_lowered(run, registry, subject):
    registry.set_compatibility(subject, "FORWARD")
    raised = run("register")
    assert raised.returncode == 0, raised.stderr
    assert registry.compatibility(subject) == "FULL_TRANSITIVE"
    assert "compatibility set to FULL_TRANSITIVE (was FORWARD)" in raised.stderr


def drip(connection):
    """An answer's head and body, a byte at a time."""
    for byte in b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"compatibilityLevel": "' + b" " * 900:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def drip_head(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def flood(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        connection.sendall(b" " * 65_536)


def flood_head(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x: " + b"x" * 1000 + b"\r\n")


@pytest.mark.parametrize("answer", [drip, drip_head, flood, flood_head])
def test_answer_without_an_end_is_given_up_in_time(answer):
    def serve(server):
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=serve, args=(server,), daemon=True).start()
        began = time.monotonic()
        with (
            Registry(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=1) as registry,
            pytest.raises(RegistryUnavailable),
        ):
            registry.subjects()
        # Twice the time-out is promised; the rest is for a busy machine.
        assert time.monotonic() - began < 10
        server.shutdown(socket.SHUT_RDWR)
