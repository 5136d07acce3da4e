"""What a run would cost: functions by the millisecond, machines by the hour, objects by the request.

Durations are measured here; prices are another's (`prices`). That the other's processors are as fast is an
assumption; `function_seconds` has the only correction: less memory, less of a processor.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from peer.experiments.prices import CloudPrices, FunctionPrices, OwnPrices

_HOUR = 3600.0
_MONTH = 730 * _HOUR
_MB_A_GB = 1024
_GIB = 1 << 30


@dataclass(frozen=True)
class Invocations:
    """Invocations of one function.

    Attributes:
        number: of requests.
        billed_ms: of all together, each rounded up.
        memory_mb: of each.
    """

    number: int
    billed_ms: int
    memory_mb: int


@dataclass(frozen=True)
class StoreUse:
    """What was asked of a store: requests, bytes that crossed its door, and bytes times seconds kept."""

    puts: int = 0
    gets: int = 0
    moved_bytes: float = 0.0
    stored_byte_seconds: float = 0.0


@dataclass(frozen=True)
class Use:
    """What one run, or one epoch, used of what costs money in a cloud.

    Attributes:
        instance: type of the machine of a peer.
        num_instances: one a peer.
        seconds: for which they are rented.
        invocations: of functions.
        store: of the object store.
    """

    instance: str
    num_instances: int
    seconds: float
    invocations: Sequence[Invocations] = ()
    store: StoreUse = field(default_factory=StoreUse)


@dataclass(frozen=True)
class Cost:
    """US dollars, by what they are for."""

    instances: float = 0.0
    compute: float = 0.0
    requests: float = 0.0
    store: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.instances + self.compute + self.requests + self.store


def billed_ms(seconds: float, granularity_ms: int = 1) -> int:
    """Return a duration as it is billed: rounded up to whole units, at least one."""
    # what a sum of floats is off by must not cost a millisecond
    units = math.ceil(round(seconds * 1000 / granularity_ms, 6))
    return max(1, units) * granularity_ms


def billed(durations: Iterable[float], memory_mb: int, prices: FunctionPrices) -> Invocations:
    """Return what these durations, in seconds, are billed as."""
    all_ms = [billed_ms(seconds, prices.granularity_ms) for seconds in durations]
    return Invocations(len(all_ms), sum(all_ms), memory_mb)


def vcpus(memory_mb: int, prices: FunctionPrices) -> float:
    """Return how much of a processor a function with this memory has."""
    return memory_mb / prices.mb_per_vcpu


def function_seconds(cpu_seconds: float, other_seconds: float, share: float) -> float:
    """Return how long a function of one thread takes with a share of a processor.

    Args:
        cpu_seconds: that it computes with a whole processor.
        other_seconds: that it waits, for the store for example.
        share: of a processor, > 0; one thread has no use for more than one.
    """
    return cpu_seconds / min(1.0, share) + other_seconds


def memory_for(peak_bytes: int, prices: FunctionPrices) -> int:
    """Return the smallest memory, in MB, that holds this peak; the largest there is if none does."""
    needed = math.ceil(peak_bytes * _MB_A_GB / _GIB)
    return min(max(needed, prices.least_mb), prices.most_mb)


def cloud_cost(use: Use, prices: CloudPrices) -> Cost:
    """Return what a use costs by a cloud's table.

    Raises:
        ConfigurationError: the table does not know the instance type.
    """
    function, store = prices.function, prices.store
    hourly = prices.instance(use.instance).usd_per_hour
    gb_seconds = sum(each.billed_ms / 1000 * each.memory_mb / _MB_A_GB for each in use.invocations)
    return Cost(
        instances=use.num_instances * use.seconds / _HOUR * hourly,
        compute=gb_seconds * function.usd_per_gb_second,
        requests=sum(each.number for each in use.invocations) * function.usd_per_request,
        store=use.store.puts * store.usd_per_put
        + use.store.gets * store.usd_per_get
        + use.store.moved_bytes / _GIB * store.usd_per_gb_moved
        + use.store.stored_byte_seconds / _GIB / _MONTH * store.usd_per_gb_month,
    )


def own_cost(core_seconds: float, gib_seconds: float, prices: OwnPrices) -> float:
    """Return what cores and memory cost for the time in which they are held."""
    return (core_seconds * prices.usd_per_core_hour + gib_seconds * prices.usd_per_gib_hour) / _HOUR


def first_reaching(curve: Iterable[tuple[float, float]], target: float) -> float | None:
    """Return where a curve is at its target for the first time, None if it never is.

    Args:
        curve: (seconds or epochs, accuracy), in order.
        target: the accuracy.
    """
    return next((at for at, accuracy in curve if accuracy >= target), None)
