"""Prometheus metrics of a worker: read from the stage's own counts when somebody asks, so a record costs nothing more.

Names follow the field's: `_total` counters, no key or offset as a label. Off unless `metrics.port` is set.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.request import urlopen

from pipeline.errors import SettingsRefused

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector


class Counts(Protocol):
    """What a stage counts."""

    def outcomes(self) -> Mapping[str, int]: ...

    def failures_by_kind(self) -> Mapping[str, int]: ...

    def gauges(self) -> Mapping[str, float]: ...


@contextmanager
def served(stage: Counts, labels: Mapping[str, str], host: str, port: int | None) -> Iterator[None]:
    """Serve `/metrics` on `host:port` while the block runs; `SettingsRefused` when that port cannot be had.

    - `pipeline_records_total{topic,group,outcome}`: handled, dead_lettered, parked, with `--only` passed_over
    - `pipeline_failures_total{topic,group,kind}`: every failure by its class, also those that were tried again
    - `pipeline_in_flight_records`: read and not settled; `pipeline_parked_records`: keyed ones that wait in retry topics
    """
    if port is None:
        yield
        return
    with _serving(collector(stage, labels), host, port):
        yield


def collector(stage: Counts, labels: Mapping[str, str]) -> "Collector":
    """What gives the stage's counts to a registry of Prometheus' client whenever they are asked for."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  # see _serving
    from prometheus_client.registry import Collector  # noqa: PLC0415

    names, values = list(labels), list(labels.values())

    class _Stage(Collector):
        def collect(self) -> "Iterator[Metric]":
            records = CounterMetricFamily(
                "pipeline_records", "Records settled, by what became of them.", None, [*names, "outcome"]
            )
            for outcome, count in stage.outcomes().items():
                records.add_metric([*values, outcome], count)
            failures = CounterMetricFamily("pipeline_failures", "Failures by their class.", None, [*names, "kind"])
            for kind, count in stage.failures_by_kind().items():
                failures.add_metric([*values, kind], count)
            yield from (records, failures)
            for name, value in stage.gauges().items():
                gauge = GaugeMetricFamily(f"pipeline_{name}", name.replace("_", " ").capitalize() + ".", None, names)
                gauge.add_metric(values, value)
                yield gauge

    return _Stage()


@contextmanager
def of_members(
    sources: Callable[[], Mapping[int, str]],
    restarts: Callable[[], Mapping[int, int]],
    labels: Mapping[str, str],
    host: str,
    port: int | None,
) -> Iterator[None]:
    """Serve what members serve, `sources` by their numbers, on one port: each series with its member as `process`.

    Also `pipeline_restarts_total{process}`. Not summed: a member that was started again counts from 0, which Prometheus
    understands of a series and not of a sum. One that does not answer within a second is left out.
    """
    if port is None:
        yield
        return
    from prometheus_client.core import CounterMetricFamily, Metric  # noqa: PLC0415
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class _Members(Collector):
        def collect(self) -> "Iterator[Metric]":
            families: dict[str, Metric] = {}
            for number, url in sources().items():
                for family in text_string_to_metric_families(_asked(url)):
                    it = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    for sample in family.samples:
                        it.add_sample(sample.name, {**sample.labels, "process": str(number)}, sample.value)
            yield from families.values()
            names, values = list(labels), list(labels.values())
            again = CounterMetricFamily(
                "pipeline_restarts", "How often a process was started again.", None, [*names, "process"]
            )
            for number, count in restarts().items():
                again.add_metric([*values, str(number)], count)
            yield again

    with _serving(_Members(), host, port):
        yield


def _asked(url: str) -> str:
    try:
        with urlopen(url, timeout=1) as answer:  # noqa: S310  # an address of ours
            return str(answer.read().decode())
    except OSError:
        return ""


@contextmanager
def _serving(collector: "Collector", host: str, port: int) -> Iterator[None]:
    # Imported here because only who asks for metrics needs it.
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingsRefused(
            f"metrics.port {port} on {host} cannot be used: {error.strerror}. Choose another one, or leave it out."
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
