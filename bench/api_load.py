"""`python -m bench.api_load`: accepted orders a second of the API, beside the same app that acknowledges by itself.

Each side is a process of its own on loopback, with the same edges, validation and encoding; a client of this process keeps
so many connections busy. The sides take turns, several rounds, and their medians are compared.
"""

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from pipeline import settings, wiring
from pipeline.core.ports import Delivery
from pipeline.core.record import Headers
from pipeline.local import artifacts, class_archives
from pipeline.local.stack import LocalStack, ephemeral_stack

ALONE = "--acknowledge-by-itself"
_BODY = '{"orderId": "%s-%07d", "customerId": "17850", "amount": "139.12", "timestampUtc": "2010-12-01T08:26:00Z"}'
_HEAD = "POST /api/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Itself:
    """In the place of the producer: every order is acknowledged at once, and is nowhere."""

    def offer(
        self,
        topic: str,
        key: bytes | None,
        _value: bytes | None,
        *,
        headers: Headers = (),  # noqa: ARG002  # a producer's shape
        on_delivery: Callable[[Delivery], None],
    ) -> bool:
        on_delivery(Delivery(topic, 0, 0, key, None))
        return True

    def serve(self, timeout_s: float = 0) -> None:
        time.sleep(timeout_s)

    def close(self, within_s: float | None = None) -> None:
        pass


def serve_alone(port: int) -> None:
    """The same app, but for the producer."""
    from pipeline import telemetry  # noqa: PLC0415  # in the process of the server only
    from pipeline.api import app, server, service  # noqa: PLC0415

    configured = settings.load({"api.port": port, "api.worker": False})
    writer = wiring.encoder(configured, configured.kafka.topic)
    holds = service.Service(configured, lambda _settings, _stopping: (Itself(), writer))
    with telemetry.stop_signals() as stopping:
        server.serve(app.application(holds), holds, server.listen("127.0.0.1", port), stopping)


async def client(port: int, connections: int, seconds: float, run: str) -> float:
    """Accepted orders a second; anything else than 202 is an error."""
    until = time.monotonic() + seconds
    counts = await asyncio.gather(*(_one(port, f"{run}-{number}", until) for number in range(connections)))
    return sum(counts) / seconds


async def _one(port: int, name: str, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.monotonic() < until:
        body = _BODY % (name, number)
        writer.write((_HEAD % len(body) + body).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        answer = await reader.readexactly(int(length.partition(b":")[2]))
        if not head.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(answer.decode())
        number += 1
    writer.close()
    return number


def measure(environment: dict[str, str], command: list[str], connections: int, seconds: float, run: str) -> float:
    """One round of one side: started, warmed up, measured, stopped."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet: Any = subprocess.DEVNULL
    server = subprocess.Popen([*command, str(port)], env=environment, stderr=quiet)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz/ready").status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        asyncio.run(client(port, connections, 1, f"{run}-warm"))
        return asyncio.run(client(port, connections, seconds, run))
    finally:
        server.send_signal(signal.SIGTERM)
        if server.wait(60) != 0:
            raise RuntimeError(f"the server ended with {server.returncode}")


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=1)] = 5,
    connections: Annotated[int, typer.Option(min=1)] = 128,
    alone: Annotated[int | None, typer.Option(ALONE, hidden=True)] = None,
) -> None:
    """Print each side's median of accepted orders a second, and its ratio to the app without Kafka."""
    if alone is not None:
        serve_alone(alone)
        return
    cache = artifacts.default_cache()
    with (
        ephemeral_stack(class_archives.install(cache, artifacts.no_progress, print)) as stack,
        tempfile.TemporaryDirectory() as home,
    ):
        environment = _environment(stack, Path(home))
        for door in (["topics", "apply"], ["schemas", "register"]):
            subprocess.run(
                [sys.executable, "-m", f"pipeline.{door[0]}", door[1]], env=environment, check=True, capture_output=True
            )
        api = [sys.executable, "-m", "pipeline.api"]
        sides = {
            "without Kafka": [sys.executable, "-m", "bench.api_load", ALONE],
            "with Kafka": [*api, "--no-worker", "--port"],
            "with Kafka and the worker in the process": [*api, "--port"],
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds):
            for name, command in sides.items():
                rates[name].append(measure(environment, command, connections, seconds, f"{turn}-{len(name)}"))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    base = medians["without Kafka"]
    for name, median in medians.items():
        print(f"{name:<42}{median:>8.0f} /s   {median / base:.2f}   {[round(each) for each in rates[name]]}")
    print(
        json.dumps(
            {name: {"per_s": round(median), "ratio": round(median / base, 3)} for name, median in medians.items()}
        )
    )


def _environment(stack: LocalStack, home: Path) -> dict[str, str]:
    ours = {
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "PIPELINE_REGISTRY__URL": stack.registry_url,
        "PIPELINE_STORE__URL": f"sqlite:///{home / 'orders.db'}",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")} | ours


if __name__ == "__main__":
    typer.run(main)
