"""What the API counts, for Prometheus: requests by route and status, orders by what became of them, the worker's own counts."""

import re
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from pipeline import metrics

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Figures:
    """One process's counts. No order id, key or path of a client's making is a label."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pipeline_api_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "pipeline_api_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._orders = Counter(
            "pipeline_api_orders",
            "Orders, by what was answered: accepted, invalid, not_accepted, unknown.",
            ["outcome"],
            registry=self._registry,
        )
        self._pending = Gauge(
            "pipeline_api_pending_orders", "Orders that wait for the broker's word.", registry=self._registry
        )
        self._registry.register(metrics.build_info())
        for outcome in ("accepted", "invalid", "not_accepted", "unknown"):
            self._orders.labels(outcome)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        route = re.sub(r":\w+}", "}", route)
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def order(self, outcome: str) -> None:
        """An order was answered so."""
        self._orders.labels(outcome).inc()

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """Ask this for how many orders wait, when somebody asks."""
        self._pending.set_function(pending)

    def add(self, collector: Collector) -> None:
        """Serve this one's figures too."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
