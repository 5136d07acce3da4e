"""`/metrics`: OpenFaaS' names, its Pro names, and our own under `localfaas_`.

Every series is read from the pools when it is asked for, so a removed function's series go with it. Labels
are
bounded: a function, a status code, a mechanism.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from localfaas.async_queue import AsyncQueue
from localfaas.gateway import Functions
from localfaas.memory import MemoryUsage
from localfaas.namespaces import FunctionName
from localfaas.pool import Pool
from localfaas.status import total_cpu_seconds

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

_NAME = ["function_name"]


class MetricsPage:
    """Renders every metric of a gateway; to be used on its event loop."""

    def __init__(self, functions: Functions, queue: AsyncQueue) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_FunctionCollector(functions, queue))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)


class _FunctionCollector(Collector):
    def __init__(self, functions: Functions, queue: AsyncQueue) -> None:
        self._functions = functions
        self._queue = queue

    def describe(self) -> Iterable[Metric]:
        """Say nothing at registration: names are fixed, values are not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        pools = self._functions.pools
        yield from _invocations(pools)
        yield from _replicas(pools)
        yield from _memory(pools, self._functions.runtime.memory_source)
        yield from _asynchronous(self._queue)


def _label(pool: Pool) -> str:
    return pool.function.qualified


def _invocations(pools: list[Pool]) -> Iterator[Metric]:
    total = CounterMetricFamily("gateway_function_invocation", "Answered requests.", labels=[*_NAME, "code"])
    seconds = HistogramMetricFamily(
        "gateway_functions_seconds", "Time from a request to the end of its reply.", labels=[*_NAME, "code"]
    )
    # OpenFaaS' counter has no `_total` at its end, which the client library would add.
    started = UnknownMetricFamily("gateway_function_invocation_started", "Requests that came.", labels=_NAME)
    for pool in pools:
        for code, histogram in pool.stats.durations_by_code.items():
            total.add_metric([_label(pool), code], sum(histogram.counts))
            seconds.add_metric([_label(pool), code], histogram.cumulative(), histogram.sum_seconds)
        started.add_metric([_label(pool)], pool.stats.num_started)
    yield from (total, seconds, started)
    yield _gauge(
        pools, "localfaas_requests_in_flight", "Requests that wait or run.", lambda p: p.stats.num_in_flight
    )
    yield _gauge(
        pools, "localfaas_requests_waiting", "Requests that wait for a replica.", lambda p: p.num_waiting
    )


def _replicas(pools: list[Pool]) -> Iterator[Metric]:
    yield _gauge(pools, "gateway_service_count", "Replicas wanted.", lambda p: p.record.replicas)
    yield _gauge(pools, "localfaas_replicas_available", "Replicas that answer.", lambda p: p.num_available)
    yield _counter(
        pools, "localfaas_replicas_lost", "Replicas that ended unasked.", lambda p: p.stats.num_replicas_lost
    )
    cold_starts = HistogramMetricFamily(
        "localfaas_cold_start_seconds", "Time from a replica's start to its first answer.", labels=_NAME
    )
    for pool in pools:
        histogram = pool.stats.cold_starts
        cold_starts.add_metric([_label(pool)], histogram.cumulative(), histogram.sum_seconds)
    yield cold_starts
    yield _counter(pools, "pod_cpu_usage_seconds", "CPU time of all replicas.", total_cpu_seconds)


def _memory(pools: list[Pool], source: str) -> Iterator[Metric]:
    usages = {pool: [replica.process.memory() for replica in pool.replicas] for pool in pools}

    def total(read: Callable[[MemoryUsage], int]) -> Callable[[Pool], float]:
        return lambda pool: sum(map(read, usages[pool]))

    yield _gauge(
        pools,
        "pod_memory_working_set_bytes",
        "Working set of all replicas.",
        total(lambda u: u.working_set_bytes),
    )
    limits = GaugeMetricFamily("localfaas_memory_limit_bytes", "Memory limit of one replica.", labels=_NAME)
    for pool in pools:
        limit_bytes = pool.record.deployment.memory_limit_bytes
        if limit_bytes is not None:
            limits.add_metric([_label(pool)], limit_bytes)
    yield limits
    yield _gauge(
        pools,
        "localfaas_memory_peak_bytes",
        "The most memory that one replica has used since the function was last deployed.",
        lambda p: p.peak_bytes,
    )
    yield _counter(
        pools, "localfaas_oom_kills", "Replicas that ran out of memory.", lambda p: p.stats.num_oom_kills
    )
    pressure = CounterMetricFamily(
        "localfaas_memory_reclaims", "Times that a limit was reached.", labels=[*_NAME, "source"]
    )
    faults = CounterMetricFamily(
        "localfaas_major_faults", "Page faults that read a disk.", labels=[*_NAME, "source"]
    )
    for pool in pools:
        reclaims = pool.stats.ended_reclaims + total(lambda u: u.reclaims)(pool)
        pressure.add_metric([_label(pool), source], reclaims)
        faults.add_metric(
            [_label(pool), source], pool.stats.ended_major_faults + total(lambda u: u.major_faults)(pool)
        )
    yield from (pressure, faults)


def _asynchronous(queue: AsyncQueue) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "localfaas_async_queue_depth", "Asynchronous calls not answered yet.", labels=_NAME
    )
    oldest = GaugeMetricFamily(
        "localfaas_async_queue_oldest_seconds", "Age of the oldest of them.", labels=_NAME
    )
    for function, num_calls, seconds in queue.depths():
        label = FunctionName.parse(function).qualified
        depth.add_metric([label], num_calls)
        oldest.add_metric([label], seconds)
    yield from (depth, oldest)


def _gauge(pools: list[Pool], name: str, text: str, value: Callable[[Pool], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_NAME)
    for pool in pools:
        family.add_metric([_label(pool)], value(pool))
    return family


def _counter(pools: list[Pool], name: str, text: str, value: Callable[[Pool], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=_NAME)
    for pool in pools:
        family.add_metric([_label(pool)], value(pool))
    return family
