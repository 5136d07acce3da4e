"""`/metrics`: OpenFaaS' names, its Pro names, and our own under `localfaas_`.

Every series is read from the pools when it is asked for, so a removed function's series go with it. Labels
are bounded: a function, a status code, a mechanism. docs/metrics.md has a row for each.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

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

from localfaas import __version__
from localfaas.async_queue import AsyncQueue
from localfaas.gateway import Functions
from localfaas.memory import PRESSURE_SOURCE, MemoryUsage
from localfaas.namespaces import FunctionName
from localfaas.pool import Pool
from localfaas.runtimes.interface import Runtime
from localfaas.stats import total_pressure
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
        pools, runtime = self._functions.pools, self._functions.runtime
        yield _build_info(runtime)
        yield from _invocations(pools)
        yield from _replicas(pools)
        usages = {pool: [replica.process.memory() for replica in pool.replicas] for pool in pools}
        yield from _memory(pools, usages)
        yield from _memory_pressure(pools, usages, runtime.memory_source)
        yield from _asynchronous(self._queue)
        yield from _state_disk(self._functions.state_dir)


def _label(pool: Pool) -> str:
    return pool.function.qualified


def _build_info(runtime: Runtime) -> Metric:
    labels = {"version": __version__, "runtime": runtime.name, "memory_source": runtime.memory_source}
    family = GaugeMetricFamily("localfaas_build_info", "What this gateway is; always 1.", labels=[*labels])
    family.add_metric([*labels.values()], 1)
    return family


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
    yield _gauge(
        pools,
        "localfaas_deployed_timestamp_seconds",
        "When the present deployment was made, in seconds since 1970.",
        lambda p: p.record.deployed_timestamp_seconds,
    )
    yield _counter(pools, "pod_cpu_usage_seconds", "CPU time of all replicas.", total_cpu_seconds)


_Usages = dict[Pool, list[MemoryUsage]]


def _memory(pools: list[Pool], usages: _Usages) -> Iterator[Metric]:
    yield _gauge(
        pools,
        "pod_memory_working_set_bytes",
        "Working set of all replicas.",
        lambda p: sum(usage.working_set_bytes for usage in usages[p]),
    )
    yield _gauge(
        pools,
        "localfaas_replica_working_set_bytes",
        "The largest working set of one replica.",
        lambda p: max((usage.working_set_bytes for usage in usages[p]), default=0),
    )
    yield _gauge(
        pools,
        "localfaas_memory_cache_bytes",
        "Page cache that all replicas are charged for.",
        lambda p: sum(usage.cache_bytes for usage in usages[p]),
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


def _memory_pressure(pools: list[Pool], usages: _Usages, source: str) -> Iterator[Metric]:
    """Yield what tells that memory is short; counters, with what ended replicas had counted."""
    yield _counter(
        pools, "localfaas_oom_kills", "Replicas that ran out of memory.", lambda p: p.stats.num_oom_kills
    )
    reclaims = CounterMetricFamily(
        "localfaas_memory_reclaims", "Times that a limit was reached.", labels=[*_NAME, "source"]
    )
    faults = CounterMetricFamily(
        "localfaas_major_faults", "Page faults that read a disk.", labels=[*_NAME, "source"]
    )
    pressure = CounterMetricFamily(
        "localfaas_memory_pressure_seconds",
        "Time in which processes of a replica waited for memory: some or all of them.",
        labels=[*_NAME, "kind", "source"],
    )
    for pool in pools:
        label, stats = _label(pool), pool.stats
        num_reclaims = stats.ended_reclaims + sum(usage.reclaims for usage in usages[pool])
        reclaims.add_metric([label, source], num_reclaims)
        num_faults = stats.ended_major_faults + sum(usage.major_faults for usage in usages[pool])
        faults.add_metric([label, source], num_faults)
        stalled = total_pressure([stats.ended_pressure, *(usage.pressure for usage in usages[pool])])
        if stalled is not None:
            pressure.add_metric([label, "some", PRESSURE_SOURCE], stalled.some_seconds)
            pressure.add_metric([label, "full", PRESSURE_SOURCE], stalled.full_seconds)
    yield from (reclaims, faults, pressure)


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


def _state_disk(state_dir: Path) -> Iterator[Metric]:
    """Yield what tells that changes and asynchronous calls will be refused; absent where nobody knows."""
    with suppress(OSError):
        usage = shutil.disk_usage(state_dir)
        yield GaugeMetricFamily(
            "localfaas_state_disk_free_bytes", "Room on the state directory's disk.", value=usage.free
        )
        yield GaugeMetricFamily(
            "localfaas_state_disk_size_bytes", "Size of the state directory's disk.", value=usage.total
        )


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
