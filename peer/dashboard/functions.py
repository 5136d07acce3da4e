"""Functions and their invocations, from the gateway's `/metrics` and `/system/functions`."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from peer.dashboard.scrape import Scrape, Window, quantile
from peer.dashboard.state import RECENT_SECONDS, FunctionState, InvocationRow, OomMark

SECONDS_A_POINT = 2.0
"""Between two values of a function's memory history."""

_NAMESPACE = "openfaas-fn"
_MOST_FUNCTIONS = 100
_MOST_MARKS = 50
_POINTS = 120


class FunctionHistory:
    """What the gateway said of its functions, and what of it has to be remembered from reading to reading."""

    def __init__(self) -> None:
        self._window = Window()
        self._ratios: dict[str, deque[float | None]] = {}
        self._marks: dict[str, deque[OomMark]] = {}
        self._kills: dict[str, float] = {}
        self._limits: dict[str, float | None] = {}
        self._point_at: float | None = None
        self.functions: list[FunctionState] = []
        self.invocations: list[InvocationRow] = []

    def add(self, scrape: Scrape | None, listing: Iterable[Mapping[str, Any]], now: float) -> None:
        """Take one reading of both; either may be missing.

        Args:
            scrape: the gateway's `/metrics`.
            listing: the answer of `/system/functions`.
            now: a monotonic time.
        """
        listed = {str(entry.get("name", "")): entry for entry in listing if entry.get("name")}
        scrape = scrape or Scrape({})
        labels = scrape.values_of("function_name")
        labels |= {f"{name}.{entry.get('namespace') or _NAMESPACE}" for name, entry in listed.items()}
        names = {label: label.removesuffix(f".{_NAMESPACE}") for label in sorted(labels)[:_MOST_FUNCTIONS]}
        for label in names:
            self._remember(label, scrape, now)
        num_points = self._points_until(now)
        self.functions = [
            self._function(label, names[label], scrape, listed.get(names[label], {}), num_points)
            for label in names
        ]
        self.invocations = [self._row(label, names[label], scrape) for label in names]
        for memory in (self._ratios, self._marks, self._kills, self._limits):
            for gone in memory.keys() - names.keys():
                del memory[gone]

    def _points_until(self, now: float) -> int:
        """Return how many points of memory history are due: more than one after a pause in reading."""
        if self._point_at is None:
            self._point_at = now
            return 1
        due = int((now - self._point_at) / SECONDS_A_POINT)
        self._point_at += due * SECONDS_A_POINT
        return due

    def _remember(self, label: str, scrape: Scrape, now: float) -> None:
        def add(key: str, name: str, **labels: str) -> None:
            self._window.add(f"{key} {label}", now, scrape.total(name, function_name=label, **labels))

        add("cpu", "pod_cpu_usage_seconds_total")
        add("pressure", "localfaas_memory_pressure_seconds_total", kind="some")
        add("reclaims", "localfaas_memory_reclaims_total")
        add("faults", "localfaas_major_faults_total")
        add("invocations", "gateway_function_invocation_total")
        kills = scrape.total("localfaas_oom_kills_total", function_name=label)
        if kills is None:
            return
        before = self._kills.get(label, kills)
        marks = self._marks.setdefault(label, deque(maxlen=_MOST_MARKS))
        if kills > before:
            # since the last reading, so at the limit that it saw: who raises it does so after the kill
            marks.append(OomMark(time.time(), int(kills - before), self._limits.get(label)))
        while marks and time.time() - marks[0].time > RECENT_SECONDS:
            marks.popleft()
        self._kills[label] = kills
        self._limits[label] = scrape.total("localfaas_memory_limit_bytes", function_name=label)

    def _function(
        self, label: str, name: str, scrape: Scrape, listed: Mapping[str, Any], num_points: int
    ) -> FunctionState:
        def read(metric: str) -> float | None:
            return scrape.total(metric, function_name=label)

        available = read("localfaas_replicas_available")
        if available is None:
            available = _number(listed.get("availableReplicas"))
        wanted = read("gateway_service_count")
        total = read("pod_memory_working_set_bytes")
        working_set = read("localfaas_replica_working_set_bytes")
        if working_set is None and total is not None:
            working_set = total / max(1.0, available or 1.0)
        limit = read("localfaas_memory_limit_bytes")
        ratio = working_set / limit if working_set is not None and limit else None
        ratios = self._ratios.setdefault(label, deque(maxlen=_POINTS))
        if num_points:
            ratios.extend([*[None] * min(num_points - 1, _POINTS), ratio])
        pressure = self._window.rate(f"pressure {label}")
        cold_starts = read("localfaas_cold_start_seconds_count")
        cold_seconds = read("localfaas_cold_start_seconds_sum")
        return FunctionState(
            name=name,
            replicas=_whole(wanted if wanted is not None else _number(listed.get("replicas"))),
            replicas_available=_whole(available),
            in_flight=_whole(read("localfaas_requests_in_flight")),
            waiting=_whole(read("localfaas_requests_waiting")),
            working_set_bytes=working_set,
            working_set_total_bytes=total,
            limit_bytes=limit,
            peak_bytes=read("localfaas_memory_peak_bytes"),
            memory_ratio=ratio,
            pressure_source=_pressure_source(scrape, label),
            pressure_ratio=None if pressure is None else min(1.0, pressure / max(1.0, available or 1.0)),
            reclaims_per_second=self._window.rate(f"reclaims {label}"),
            major_faults_per_second=self._window.rate(f"faults {label}"),
            oom_kills=_whole(read("localfaas_oom_kills_total")),
            oom_marks=list(self._marks.get(label, ())),
            cold_starts=_whole(cold_starts),
            cold_start_seconds=cold_seconds / cold_starts if cold_starts and cold_seconds else None,
            cpu_cores=self._window.rate(f"cpu {label}"),
            memory_ratios=list(ratios),
        )

    def _row(self, label: str, name: str, scrape: Scrape) -> InvocationRow:
        codes = scrape.by_label("gateway_function_invocation_total", "code", function_name=label)
        errors = {
            code: int(count) for code, count in sorted(codes.items()) if not code.startswith("2") and count
        }
        buckets: dict[float, float] = {}
        for labels, count in scrape.samples("gateway_functions_seconds_bucket", function_name=label):
            if labels.get("code", "200").startswith("2"):
                bound = float(labels.get("le", "inf"))
                buckets[bound] = buckets.get(bound, 0.0) + count
        return InvocationRow(
            function=name,
            count=int(sum(codes.values())),
            per_second=self._window.rate(f"invocations {label}"),
            errors_by_code=errors,
            # 429 asks for patience while all replicas are busy; nothing has failed
            num_errors=sum(count for code, count in errors.items() if code != "429"),
            p50_seconds=quantile(0.5, buckets.items()),
            p95_seconds=quantile(0.95, buckets.items()),
        )


def _pressure_source(scrape: Scrape, label: str) -> str:
    """Return what stands behind a function's memory pressure: PSI, or the mechanism that counts reclaims."""
    for name in ("localfaas_memory_pressure_seconds_total", "localfaas_memory_reclaims_total"):
        sources = scrape.by_label(name, "source", function_name=label)
        if sources:
            is_psi = name == "localfaas_memory_pressure_seconds_total"
            return "psi" if is_psi else next(iter(sources))
    return ""


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
