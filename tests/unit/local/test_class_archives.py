"""Class archives: when they are made, and what happens where they cannot be. That servers use them: test_local_stack."""

from pathlib import Path

import pytest

from pipeline.local import class_archives
from pipeline.local.artifacts import Installed


def runtime(folder: Path) -> Path:
    """A Java that can do nothing, and writes down that it was called."""
    java = folder / "bin" / "java"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "modules").write_bytes(b"classes")
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho called >> {folder}/calls\nexit 3\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    for name in ("kafka.jar", "run.jar"):
        (tmp_path / name).write_bytes(b"jar")
    return Installed(runtime(tmp_path / "java"), (tmp_path / "kafka.jar",), tmp_path / "run.jar")


def calls(installed: Installed) -> int:
    return len((installed.java.parent.parent / "calls").read_text().splitlines())


def test_java_that_makes_no_archives_is_said_once_and_the_stack_goes_without(
    installed: Installed, tmp_path: Path
) -> None:
    said: list[str] = []
    assert class_archives.prepared(installed, tmp_path / "cache", said.append) == installed
    assert said[0].startswith("making class archives, once")
    assert "no class archives" in said[1]
    assert "exit status 3" in said[1]
    again: list[str] = []
    assert class_archives.prepared(installed, tmp_path / "cache", again.append) == installed
    assert (again, calls(installed)) == ([], 1)


def test_other_jar_is_tried_anew(installed: Installed, tmp_path: Path) -> None:
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    installed.registry_jar.write_bytes(b"a newer jar")
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    assert calls(installed) == 2


def test_archives_that_are_there_are_named_to_the_server(installed: Installed, tmp_path: Path) -> None:
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    [folder] = (tmp_path / "cache").iterdir()
    (folder / "outcome").write_text("")
    found = class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    assert found.archive("kafka") == [f"-XX:SharedArchiveFile={folder}/kafka.jsa"]
    assert installed.archive("kafka") == []


def test_making_that_was_interrupted_begins_again(installed: Installed, tmp_path: Path) -> None:
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    [folder] = (tmp_path / "cache").iterdir()
    (folder / "outcome").unlink()
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    assert calls(installed) == 2


def test_archives_of_a_java_that_is_gone_are_deleted_and_others_stay(installed: Installed, tmp_path: Path) -> None:
    gone = Installed(runtime(tmp_path / "old"), installed.kafka_jars, installed.registry_jar)
    other = Installed(runtime(tmp_path / "other"), installed.kafka_jars, installed.registry_jar)
    for each in (gone, other):
        # Times differ by chance only.
        (each.java.parent.parent / "lib" / "modules").write_bytes(str(each.java).encode())
        class_archives.prepared(each, tmp_path / "cache", lambda _: None)
    gone.java.unlink()
    class_archives.prepared(installed, tmp_path / "cache", lambda _: None)
    javas = {(folder / "java").read_text() for folder in (tmp_path / "cache").iterdir()}
    assert javas == {str(other.java), str(installed.java)}


def test_cache_without_room_is_left_alone(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_archives, "_ROOM_BYTES", 1 << 62)
    said: list[str] = []
    assert class_archives.prepared(installed, tmp_path / "cache", said.append) == installed
    assert said == []
