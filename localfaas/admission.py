"""How many replicas the machine has room for, besides what runs already.

Only automatic scaling asks: what an operator asks for, by a minimum or by scale-function, is not refused.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What replicas share."""

    cores: int
    available_bytes: int
    """Memory that can be taken now without swapping; what replicas use already is not among it."""


@dataclass(frozen=True)
class Demand:
    """What the replicas of one function take, and may yet take."""

    replicas: int
    cpus: float
    """Of one replica; 0 where the deployment does not say."""

    replica_bytes: int
    """Of one replica: its limit, else the most that one has used."""

    used_bytes: int
    """Of all replicas, now."""


def read_machine(meminfo: Path = Path("/proc/meminfo")) -> Machine:
    """Return this machine's cores, those that this process may use, and its available memory."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return Machine(len(os.sched_getaffinity(0)), int(fields["MemAvailable"].split()[0]) * 1024)


def room_for(asking: Demand, others: Sequence[Demand], machine: Machine) -> int:
    """Return the most replicas that the asking function may have; what it has already is never too many.

    Every function is counted with the CPUs and the memory that its replicas may take, not with what they take
    just now. A function that states no CPUs is bounded by memory alone.
    """
    demands = [asking, *others]
    more = []
    if asking.cpus:
        free_cpus = machine.cores - sum(demand.replicas * demand.cpus for demand in demands)
        # Figures such as 0.1 are no exact binary fractions.
        more.append(int(free_cpus / asking.cpus + 1e-9))
    if asking.replica_bytes:
        may_grow = sum(max(0, each.replicas * each.replica_bytes - each.used_bytes) for each in demands)
        more.append((machine.available_bytes - may_grow) // asking.replica_bytes)
    return asking.replicas + max(0, min(more)) if more else asking.replicas + machine.cores
