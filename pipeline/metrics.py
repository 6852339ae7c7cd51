"""Prometheus metrics of a worker: read from the stage's own counts when somebody asks, so a record costs nothing more.

Names follow the field's: `_total` counters, no key or offset as a label. Off unless `metrics.port` is set. The port answers to
`GET` and `HEAD` of `/metrics` alone: whatever else somebody asks for, such as a liveness probe, is not found.
"""

import platform
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Protocol
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from pipeline.errors import SettingsRefused
from pipeline.version import version

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector


PATH = "/metrics"
# A client that sends nothing keeps no thread longer than this.
_CLIENT_S = 10
_HELP = {
    "records": "Records settled, by what became of them: handled or forwarded, dead_lettered, parked (sent to a retry topic).",
    "failures": "Failed tries by class of failure, also those that were tried again.",
    "retries": "Failed tries after which the record is tried again, in place or in a retry topic.",
    "commits": "Commits that the broker acknowledged.",
    "commit_failures": "Commits that were refused, not acknowledged, or aborted; what they held is committed again later.",
    "assignments": "Rebalances in which partitions were assigned to this member.",
    "revocations": "Rebalances in which partitions were revoked from this member, or lost.",
    "in_flight_records": "Records read and not settled yet.",
    "missed_records": "Records deleted before the group read them, at most.",
    "positions": "Positions that the log did not hold.",
    "parked_records": "Keyed records of this member's partitions that wait in retry topics.",
    "handlers_running": "Calls of the handler that go on.",
    "oldest_in_flight_seconds": "Seconds since the oldest call of the handler that goes on began; 0 when none does.",
    "recovery_mode": "1 while records are named in commits before they are processed, because a worker died with them.",
    "last_poll_age_seconds": "Seconds since this member polled last; beyond max.poll.interval.ms it loses its partitions.",
    "last_commit_age_seconds": "Seconds since a commit was acknowledged last; it grows where nothing is to be committed, too.",
}


class Counts(Protocol):
    """What a stage counts."""

    def outcomes(self) -> Mapping[str, int]: ...

    def failures_by_kind(self) -> Mapping[str, int]: ...

    def counters(self) -> Mapping[str, int]: ...

    def findings(self) -> tuple[Mapping[str, int], int]: ...

    def gauges(self) -> Mapping[str, float]: ...


@contextmanager
def served(stage: Counts, labels: Mapping[str, str], host: str, port: int | None) -> Iterator[None]:
    """Serve `/metrics` on `host:port` while the block runs; `SettingsRefused` when that port cannot be had.

    - `pipeline_records_total{topic,group,outcome}`: handled, dead_lettered, parked, with `--only` passed_over
    - `pipeline_failures_total{topic,group,kind}`: every failure by its class, also those that were tried again
    - `pipeline_missed_records_total`, `pipeline_positions_total{finding}`: records deleted unread, at most; positions that the
      log did not hold (deleted, beyond_the_end, another_log, never_committed)
    - `pipeline_retries_total`, `pipeline_commits_total`, `pipeline_commit_failures_total`, `pipeline_assignments_total`,
      `pipeline_revocations_total`
    - `pipeline_in_flight_records`, `pipeline_parked_records`, `pipeline_recovery_mode`, `pipeline_last_poll_age_seconds`,
      `pipeline_last_commit_age_seconds`
    - `pipeline_build_info{version,python}`
    """
    if port is None:
        yield
        return
    with _serving([collector(stage, labels), build_info()], host, port):
        yield


def collector(stage: Counts, labels: Mapping[str, str]) -> "Collector":
    """What gives the stage's counts to a registry of Prometheus' client whenever they are asked for."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  # see _serving
    from prometheus_client.registry import Collector  # noqa: PLC0415

    names, values = list(labels), list(labels.values())

    class _Stage(Collector):
        def collect(self) -> "Iterator[Metric]":
            records = CounterMetricFamily("pipeline_records", _HELP["records"], None, [*names, "outcome"])
            for outcome, count in stage.outcomes().items():
                records.add_metric([*values, outcome], count)
            failures = CounterMetricFamily("pipeline_failures", _HELP["failures"], None, [*names, "kind"])
            for kind, count in stage.failures_by_kind().items():
                failures.add_metric([*values, kind], count)
            found, missed = stage.findings()
            lost = CounterMetricFamily("pipeline_missed_records", _HELP["missed_records"], None, names)
            lost.add_metric(values, missed)
            positions = CounterMetricFamily("pipeline_positions", _HELP["positions"], None, [*names, "finding"])
            for kind, count in found.items():
                positions.add_metric([*values, kind], count)
            yield from (records, failures, lost, positions)
            for name, count in stage.counters().items():
                counter = CounterMetricFamily(f"pipeline_{name}", _help(name), None, names)
                counter.add_metric(values, count)
                yield counter
            for name, value in stage.gauges().items():
                gauge = GaugeMetricFamily(f"pipeline_{name}", _help(name), None, names)
                gauge.add_metric(values, value)
                yield gauge

    return _Stage()


def build_info() -> "Collector":
    """What gives `pipeline_build_info`, a series that is 1: once for each process, whatever else it serves."""
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  # see _serving
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class _Build(Collector):
        def collect(self) -> "Iterator[Metric]":
            names = ["version", "python"]
            info = GaugeMetricFamily("pipeline_build_info", "The version that runs, and Python's.", None, names)
            info.add_metric([version(), platform.python_version()], 1)
            yield info

    return _Build()


def _help(name: str) -> str:
    return _HELP.get(name, name.replace("_", " ").capitalize() + ".")


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

    with _serving([_Members()], host, port):
        yield


def _asked(url: str) -> str:
    try:
        with urlopen(url, timeout=1) as answer:  # noqa: S310  # an address of ours
            return str(answer.read().decode())
    except OSError:
        return ""


@contextmanager
def _serving(collectors: Iterable["Collector"], host: str, port: int) -> Iterator[None]:
    # Imported here because only who asks for metrics needs it.
    from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415

    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = type("_OfFamily", (_Server,), {"address_family": family})((host, port), _Client)
    except OSError as error:
        raise SettingsRefused(
            f"metrics.port {port} on {host} cannot be used: {error.strerror}. Choose another one, or leave it out."
        ) from error
    server.set_app(_only_metrics(make_wsgi_app(registry)))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Client(WSGIRequestHandler):
    timeout = _CLIENT_S

    def log_message(self, *_: Any) -> None:
        """Say nothing: who asks for metrics does so every few seconds."""


def _only_metrics(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The app for `GET` and `HEAD` of `/metrics`; 404 for other paths, 405 for other methods."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if environ["PATH_INFO"] != PATH:
            text = f"Only {PATH} is served here.\n".encode()
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
            return [] if method == "HEAD" else [text]
        if method not in {"GET", "HEAD"}:
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return []
        body = app(environ | {"REQUEST_METHOD": "GET"}, start_response)
        return [] if method == "HEAD" else body

    return answer
