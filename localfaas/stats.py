"""What a function has done since it was deployed or the gateway started; the source of its metrics."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from localfaas.memory import MemoryPressure, MemoryUsage

# Prometheus' default buckets, which OpenFaaS' histogram has too.
DURATION_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class Histogram:
    """Durations in seconds, in the buckets above and one for the rest."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_SECONDS) + 1))
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(DURATION_BUCKETS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them: each with all shorter ones."""
        total = 0
        buckets = []
        for bound, count in zip((*map(str, DURATION_BUCKETS_SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


@dataclass
class FunctionStats:
    """Counters of one function; replicas that have ended are included."""

    num_started: int = 0
    num_in_flight: int = 0
    durations_by_code: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    cold_starts: Histogram = field(default_factory=Histogram)
    num_oom_kills: int = 0
    num_replicas_lost: int = 0
    ended_cpu_seconds: float = 0.0
    ended_major_faults: int = 0
    ended_reclaims: int = 0
    ended_pressure: MemoryPressure | None = None
    peak_bytes: int = 0
    """Of one replica of the present deployment."""

    def add_ended(self, memory: MemoryUsage, cpu_seconds: float, *, is_current: bool) -> None:
        """Keep what a replica has used that has ended; its peak only if it was of the present deployment."""
        self.ended_cpu_seconds += cpu_seconds
        self.ended_major_faults += memory.major_faults
        self.ended_reclaims += memory.reclaims
        self.ended_pressure = total_pressure([self.ended_pressure, memory.pressure])
        if is_current:
            self.peak_bytes = max(self.peak_bytes, memory.peak_bytes)
        self.num_oom_kills += memory.oom_kills

    @property
    def num_invocations(self) -> int:
        """Requests that have been answered."""
        return sum(sum(histogram.counts) for histogram in self.durations_by_code.values())


def total_pressure(pressures: Iterable[MemoryPressure | None]) -> MemoryPressure | None:
    """Return the sum of those that are known, None if none is."""
    known = [pressure for pressure in pressures if pressure is not None]
    return sum(known[1:], known[0]) if known else None
