"""The same stack in containers, for TEST_STACK=containers: the vendors' images on whatever Docker is there."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from testcontainers.core.container import DockerContainer

from pipeline.kafka.admin import Cluster

KAFKA_IMAGE = os.environ.get("TEST_KAFKA_IMAGE", "apache/kafka:4.4.0")
REGISTRY_IMAGE = os.environ.get("TEST_REGISTRY_IMAGE", "apicurio/apicurio-registry:3.3.3")
START_S = 120


@contextmanager
def running() -> Iterator[tuple[str, str]]:
    """Both started and answering: the broker's address and the registry's URL."""
    # The broker tells its clients where it is, so its port is chosen here and mapped to itself.
    port = _free_port()
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
    environment = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
        "KAFKA_LISTENERS": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:29093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    }
    for name, value in environment.items():
        kafka = kafka.with_env(name, value)
    registry = DockerContainer(REGISTRY_IMAGE).with_exposed_ports(8080)
    with kafka, registry:
        bootstrap_servers = f"127.0.0.1:{port}"
        host, mapped = registry.get_container_host_ip(), registry.get_exposed_port(8080)
        url = f"http://{host}:{mapped}/apis/ccompat/v7"
        Cluster({"bootstrap.servers": bootstrap_servers}).wait_until_reachable(START_S)
        _wait_for(f"{url}/subjects")
        yield bootstrap_servers, url


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not answer after {START_S} s")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])
