"""What one peer measures of itself, and the page on which Prometheus finds it; docs/metrics.md lists it.

The collector is told by what exists anyway: each round's record, each request to the store, each retry. Every
series has the labels `run` and `peer`; other labels have few values, known beforehand, so 10,000 rounds have
as many series as one.
"""

import socket
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any, get_args
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from peer import __version__
from peer.config import RunConfig, RunStart
from peer.errors import ConfigurationError, ObjectMissing, PeerlessError, StoreError
from peer.learning.usage import FUNCTION_PHASES
from peer.messages import Adaptable, Adaptation
from peer.records.phases import PHASES
from peer.records.rounds import RoundRecord

OTHER = "other"
"""Stands for every label value that is not known beforehand: functions choose the names of their phases."""

_OPERATIONS = ("put", "get", "head", "delete", "list")
_KINDS = ("put", "get", "function_put")
_ROUND_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_STORE_BUCKETS_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PeerMetrics:
    """The figures of one peer; safe between threads.

    Args:
        config: the run's.
        start: which round is first.
        rank: this peer.
    """

    def __init__(self, config: RunConfig, start: RunStart, rank: int) -> None:
        inner = CollectorRegistry()
        ProcessCollector(registry=inner)
        GCCollector(registry=inner)
        self.registry = CollectorRegistry()
        self.registry.register(_Labelled(inner, {"run": config.run, "peer": str(rank)}))
        self._define_rounds(inner)
        self._define_learning(inner)
        self._define_work(inner, config.staleness)
        self._define_store(inner)
        labels = ["version", "torch"]
        build = Gauge("peerless_build_info", "What this peer is; always 1.", labels, registry=inner)
        build.labels(__version__, version("torch")).set(1)
        self._round.set(start.resumed_round or 0)
        self._planned.set(config.rounds)
        self._last_round.set_to_current_time()

    def _define_rounds(self, registry: CollectorRegistry) -> None:
        self._rounds = Counter("peerless_rounds", "Rounds that this peer has completed.", registry=registry)
        self._round = Gauge("peerless_round", "Number of the round under way.", registry=registry)
        self._planned = Gauge("peerless_rounds_planned", "Rounds that the run has.", registry=registry)
        self._last_round = Gauge(
            "peerless_last_round_timestamp_seconds",
            "When the last round ended, or the peer began, in seconds since 1970.",
            registry=registry,
        )
        self._round_seconds = Histogram(
            "peerless_round_seconds", "Time of a round.", buckets=_ROUND_BUCKETS_SECONDS, registry=registry
        )
        self._phase_seconds = Counter(
            "peerless_phase_seconds", "Time of completed rounds, by phase.", ["phase"], registry=registry
        )
        _begin(self._phase_seconds, PHASES)
        self._checkpoints = Counter(
            "peerless_checkpoints", "Checkpoints that this peer has written.", registry=registry
        )

    def _define_learning(self, registry: CollectorRegistry) -> None:
        self._latest = _Latest(
            loss=("peerless_loss", "Training loss of the last round, over all peers' samples."),
            accuracy=("peerless_accuracy_ratio", "Training accuracy of the last round, likewise."),
            validation_loss=("peerless_validation_loss", "Loss on the held-out samples."),
            validation_accuracy=("peerless_validation_accuracy_ratio", "Accuracy on the held-out samples."),
            learning_rate=("peerless_learning_rate", "Learning rate of the last step."),
            gradient_norm=("peerless_gradient_norm", "L2 norm of the last mean gradient."),
        )
        registry.register(self._latest)

    def _define_work(self, registry: CollectorRegistry, staleness: int) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._samples = counter("peerless_samples", "Samples of this peer's gradients.")
        self._invocations = counter("peerless_invocations", "Invocations that had a valid reply.")
        self._cold_starts = counter("peerless_cold_starts", "Those that were a replica's first.")
        self._function_seconds = counter(
            "peerless_function_seconds", "Time inside this peer's invocations, by phase.", "phase"
        )
        _begin(self._function_seconds, (*FUNCTION_PHASES, OTHER))
        self._object_bytes = counter(
            "peerless_object_bytes",
            "Bytes of objects: put and get by this peer, put by its functions.",
            "kind",
        )
        _begin(self._object_bytes, _KINDS)
        self._late = counter(
            "peerless_gradients_applied",
            "Gradients of other peers that this one has applied with staleness, by how many rounds late.",
            "staleness",
        )
        _begin(self._late, map(str, range(staleness + 1)))
        self._retries = counter(
            "peerless_retries", "Attempts that were repeated, by the error that made it so.", "reason"
        )
        _begin(self._retries, _retryable_errors(PeerlessError))
        self._hedges = counter("peerless_hedges", "Second attempts of invocations that took long.")
        self._hedges_won = counter("peerless_hedges_won", "Those that had a result before the first attempt.")
        self._adaptations = counter(
            "peerless_adaptations", "What this peer has changed so that invocations fit.", "what"
        )
        _begin(self._adaptations, get_args(Adaptable))
        self._compression = Gauge(
            "peerless_compression_ratio",
            "Bytes of gradients before compression to those that this peer put in the last exchange.",
            registry=registry,
        )
        self._compression.set(1)

    def _define_store(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            made = Counter(name, text, ["operation"], registry=registry)
            _begin(made, _OPERATIONS)
            return made

        self._store_requests = counter("peerless_store_requests", "Requests to the store.")
        self._store_errors = counter(
            "peerless_store_errors", "Requests that failed; that an object is absent is an answer."
        )
        self._store_bytes = counter("peerless_store_bytes", "Bytes of objects that requests have moved.")
        self._store_seconds = Histogram(
            "peerless_store_request_seconds",
            "Time of a request to the store.",
            ["operation"],
            buckets=_STORE_BUCKETS_SECONDS,
            registry=registry,
        )
        _begin(self._store_seconds, _OPERATIONS)

    def add_round(self, record: RoundRecord) -> None:
        """Count a completed round."""
        self._rounds.inc()
        self._round.set(record.round + 1)
        self._last_round.set(record.time)
        self._round_seconds.observe(sum(record.phase_seconds.values()))
        _add(self._phase_seconds, record.phase_seconds, PHASES)
        self._latest.take(record)
        self._samples.inc(record.peer_samples)
        self._invocations.inc(record.invocations)
        self._cold_starts.inc(record.cold_starts)
        self._hedges.inc(record.hedges)
        self._hedges_won.inc(record.hedges_won)
        _add(self._function_seconds, record.function_seconds, FUNCTION_PHASES)
        _add(self._object_bytes, record.object_bytes, _KINDS)
        for late, count in enumerate(record.staleness):
            self._late.labels(str(late)).inc(count)
        if record.exchange_bytes and record.uncompressed_bytes:
            self._compression.set(record.uncompressed_bytes / record.exchange_bytes)

    def add_retry(self, error: PeerlessError) -> None:
        """Count an attempt that is repeated."""
        self._retries.labels(type(error).__name__).inc()

    def add_adaptation(self, adaptation: Adaptation) -> None:
        """Count what this peer has changed so that invocations fit."""
        self._adaptations.labels(adaptation.what).inc()

    def add_checkpoint(self) -> None:
        """Count a checkpoint that this peer has written."""
        self._checkpoints.inc()

    def add_request(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """Count one request to the store, however it ended."""
        self._store_requests.labels(operation).inc()
        self._store_seconds.labels(operation).observe(seconds)
        if isinstance(error, StoreError) and not isinstance(error, ObjectMissing):
            self._store_errors.labels(operation).inc()

    def add_transfer(self, operation: str, num_bytes: int) -> None:
        """Count the bytes that a request has moved."""
        self._store_bytes.labels(operation).inc(num_bytes)


class MetricsServer:
    """Serves a peer's metrics until it is closed; its series end then.

    Args:
        metrics: what is served.
        address: of this machine, to listen at; the port is of the system's choice.
        reached_from: where the run's store is: the way there leads through the address that others see, in
            place of one that means every address of this machine.

    Raises:
        ConfigurationError: nothing can listen there.
    """

    def __init__(self, metrics: PeerMetrics, address: str, reached_from: str) -> None:
        try:
            self._server: WSGIServer
            self._thread: threading.Thread
            self._server, self._thread = start_http_server(0, address, metrics.registry)
        except OSError as error:
            raise ConfigurationError(
                f"--metrics-address {address!r} cannot be listened at ({error.strerror or error}): name an "
                "address of this machine, or use --no-metrics"
            ) from error
        host, port = self._server.server_address[0], self._server.server_port
        host = _outgoing_address(reached_from) if host in ("0.0.0.0", "::") else str(host)
        self.url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    def close(self) -> None:
        """Serve nothing any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Latest(Collector):
    """Gauges of the fields of round records, each there once a record has had a value for it."""

    def __init__(self, **gauges: tuple[str, str]) -> None:
        self._gauges = gauges
        self._values: dict[str, float] = {}

    def take(self, record: RoundRecord) -> None:
        found = {field: getattr(record, field) for field in self._gauges}
        self._values |= {field: value for field, value in found.items() if value is not None}

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for field, value in self._values.copy().items():
            yield GaugeMetricFamily(*self._gauges[field], value=value)


class _Labelled(Collector):
    """Every sample of a registry, with labels more; without the time at which each counter was made."""

    def __init__(self, registry: CollectorRegistry, labels: dict[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            labelled = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            labelled.samples = [
                Sample(sample.name, {**self._labels, **sample.labels}, sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield labelled


def _begin(metric: Counter | Histogram, values: Iterable[str]) -> None:
    """Let the series be there, at 0, before anything is counted: Prometheus sees no increase without one."""
    for value in values:
        metric.labels(value)


def _add(counter: Counter, amounts: dict[str, Any], known: Iterable[str]) -> None:
    names = set(known)
    for name, amount in amounts.items():
        counter.labels(name if name in names else OTHER).inc(max(0, amount))


def _retryable_errors(kind: type[PeerlessError]) -> Iterator[str]:
    for child in kind.__subclasses__():
        if child.retryable and child.__module__ == PeerlessError.__module__:
            yield child.__name__
        yield from _retryable_errors(child)


def _outgoing_address(endpoint: str) -> str:
    """Return the address of this machine on the way to an endpoint; nothing is sent."""
    parts = urlsplit(endpoint)
    (family, kind, protocol, _, target), *_ = socket.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
    )
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
