"""Fetching the jars: what is checked, kept, fetched again, and refused. The real fetch: `make demo` on a new machine."""

import hashlib
import io
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import StackRefused
from pipeline.local import artifacts
from pipeline.local.artifacts import Artifact


def packed() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("quarkus-run.jar")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"jar"))
    return out.getvalue()


CONTENTS = {"kafka": b"kafka's bytes", "scala": b"scala's bytes", artifacts.REGISTRY[1]: packed()}


def artifact(name: str) -> Artifact:
    content = CONTENTS[name]
    packaging = "tar.gz" if name == artifacts.REGISTRY[1] else "jar"
    return Artifact(hashlib.sha256(content).hexdigest(), len(content), "g", name, "1.0", "", packaging)


class Repository:
    """Stands for the network; `sends` says what comes for a name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[str] = []
        self.sends: Callable[[str], bytes] = CONTENTS.__getitem__
        monkeypatch.setattr(artifacts, "lock", lambda: [artifact(name) for name in CONTENTS])
        monkeypatch.setattr(artifacts, "_download", self.download)

    def download(self, wanted: Artifact, repository: Path, progress: object) -> Path:
        self.fetched.append(wanted.name)
        repository.mkdir(parents=True, exist_ok=True)
        path = repository / wanted.file_name
        path.write_bytes(self.sends(wanted.name))
        return path


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(monkeypatch)


def install(cache: Path) -> artifacts.Installed:
    return artifacts.install(cache, artifacts.no_progress, lambda line: None)


def test_everything_is_fetched_once_and_then_used_as_it_is(repository: Repository, tmp_path: Path) -> None:
    first = install(tmp_path)
    assert repository.fetched == list(CONTENTS)
    assert [path.read_bytes() for path in first.kafka_jars] == [CONTENTS["kafka"], CONTENTS["scala"]]
    assert first.registry_jar.read_bytes() == b"jar"
    assert install(tmp_path) == first
    assert repository.fetched == list(CONTENTS)
    assert not list(tmp_path.glob(".staging-*"))


def test_interrupted_fetch_goes_on_with_the_file_it_was_at(repository: Repository, tmp_path: Path) -> None:
    def broken(name: str) -> bytes:
        if name == "scala":
            raise KeyboardInterrupt
        return CONTENTS[name]

    repository.sends = broken
    with pytest.raises(KeyboardInterrupt):
        install(tmp_path)
    repository.sends = CONTENTS.__getitem__
    install(tmp_path)
    assert repository.fetched == ["kafka", "scala", "scala", artifacts.REGISTRY[1]]


def test_damaged_file_is_fetched_once_more(repository: Repository, tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "scala-1.0.jar").write_bytes(b"scala's Bytes")
    install(tmp_path)
    assert repository.fetched[3:] == ["scala"]
    assert (tmp_path / "scala-1.0.jar").read_bytes() == CONTENTS["scala"]


def test_checksum_that_differs_twice_is_refused_and_nothing_of_it_kept(repository: Repository, tmp_path: Path) -> None:
    repository.sends = lambda name: b"something else"
    with pytest.raises(StackRefused, match=r"g:kafka:1\.0::jar arrived twice with another checksum"):
        install(tmp_path)
    assert repository.fetched == ["kafka", "kafka"]
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(StackRefused, match=r"has 1 MB free.*PIPELINE_LOCAL__CACHE_DIR"):
        install(tmp_path)
    assert repository.fetched == []


def test_committed_list_names_every_file_once_with_its_checksum() -> None:
    files = [Artifact.parse(line) for line in artifacts.LOCK.read_text().splitlines() if not line.startswith("#")]
    assert len({each.file_name for each in files}) == len(files) > 40
    assert all(len(each.sha256) == 64 and each.size > 0 for each in files)
    assert {each.name for each in files} >= {"kafka_2.13", artifacts.REGISTRY[1], artifacts.LOG_BINDING[1]}


@pytest.mark.parametrize("damage", ["changed", "lost", "unpacked by another version"])
def test_damaged_unpacked_registry_is_unpacked_once_more(repository: Repository, tmp_path: Path, damage: str) -> None:
    jar = install(tmp_path).registry_jar
    if damage == "changed":
        jar.write_bytes(b"jAr")
    elif damage == "lost":
        jar.unlink()
    else:
        next(tmp_path.glob("*.sha256")).unlink()
    said: list[str] = []
    assert artifacts.install(tmp_path, artifacts.no_progress, said.append).registry_jar.read_bytes() == b"jar"
    assert said == [f"{jar.parent} is not what it should be: unpacking it once more"]
    assert repository.fetched == list(CONTENTS), "the archive is still there"
    assert not list(tmp_path.glob(".staging-*"))


def test_relative_cache_is_named_in_full_because_the_servers_run_elsewhere(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    installed = install(Path("cache"))
    assert repository.fetched
    assert all(path.is_absolute() for path in (*installed.kafka_jars, installed.registry_jar))


def test_cache_that_cannot_be_made_is_refused_with_the_setting(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(StackRefused, match=r"cannot be used: .*PIPELINE_LOCAL__CACHE_DIR"):
            install(cache)
    assert repository.fetched == []
