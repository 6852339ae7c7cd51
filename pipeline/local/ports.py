"""Which ports the local stack listens on, and who else listens on one."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens, all on 127.0.0.1: one of `kafka`, `internal` and `controllers` for each broker."""

    kafka: tuple[int, ...]
    registry: int
    internal: tuple[int, ...]
    controllers: tuple[int, ...]
    management: int

    @classmethod
    def chosen(cls, kafka: int, registry: int, brokers: int = 1) -> "Ports":
        """Brokers from port `kafka` upwards; 0 lets the system choose, as it does for those that nobody asks."""
        of_kafka = tuple(kafka + number if kafka else free_port() for number in range(brokers))
        internal, controllers = (tuple(free_port() for _ in range(brokers)) for _ in range(2))
        return cls(of_kafka, registry or free_port(), internal, controllers, free_port())

    @classmethod
    def read(cls, recorded: dict[str, list[int] | int]) -> "Ports":
        """What `dataclasses.asdict` gave, after JSON. Raises `TypeError` when it is something else."""
        ports = cls(**{name: tuple(it) if isinstance(it, list) else it for name, it in recorded.items()})  # type: ignore[arg-type]
        of_each = (ports.kafka, ports.internal, ports.controllers)
        # Whoever may write the file must not have a word of theirs in a shell.
        if not all(isinstance(each, tuple) and each and all(map(_is_port, each)) for each in of_each):
            raise TypeError("not ports")
        if not _is_port(ports.registry) or not _is_port(ports.management):
            raise TypeError("no port")
        return ports


def _is_port(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 16


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen there; a port in TIME_WAIT can be listened on."""
    with socket.socket() as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            it.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def owner_of(port: int) -> str:
    """` by PID (its command)` where the system tells it, nothing otherwise."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return _process_with_socket(fields[9])
    return ""


def _process_with_socket(inode: str) -> str:
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(descriptor) == f"socket:[{inode}]":  # noqa: PTH115  # the target is no path
                process = descriptor.parents[1]
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f" by process {process.name} ({command[:80]})"
    return ""
