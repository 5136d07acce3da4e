"""What every mechanism that limits memory offers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PRESSURE_SOURCE = "cgroup-v2"
"""Where every `MemoryPressure` is from: version 1 has none of a group, and RLIMIT_DATA has no group."""


@dataclass(frozen=True)
class MemoryPressure:
    """Pressure stall information of one control group: for how long its processes stood still for memory.

    Source: https://docs.kernel.org/accounting/psi.html.

    Attributes:
        some_seconds: at least one of them waited for memory.
        full_seconds: all that were not idle did.
    """

    some_seconds: float
    full_seconds: float

    def __add__(self, other: "MemoryPressure") -> "MemoryPressure":
        """Return the time of both together."""
        return MemoryPressure(self.some_seconds + other.some_seconds, self.full_seconds + other.full_seconds)


@dataclass(frozen=True)
class MemoryUsage:
    """Memory of one replica.

    Attributes:
        working_set_bytes: what cannot be reclaimed: usage less inactive file pages, or the private resident
            memory.
        peak_bytes: the most that was ever used.
        oom_kills: processes that were killed for the limit.
        major_faults: page faults that read a disk.
        reclaims: how often the limit was reached and memory had to be reclaimed (0 where that cannot be
            seen).
        cache_bytes: pages of files that the replica is charged for, reclaimable ones too; none without a
            control group.
        pressure: since the replica's start, None where the kernel does not tell.
    """

    working_set_bytes: int = 0
    peak_bytes: int = 0
    oom_kills: int = 0
    major_faults: int = 0
    reclaims: int = 0
    cache_bytes: int = 0
    pressure: MemoryPressure | None = None


class MemoryGroup(Protocol):
    """The memory of one replica, from before its first instruction until after its last."""

    join_paths: tuple[str, ...]
    """Files that the replica writes `0` to before anything else."""

    rlimit_data_bytes: int | None
    """RLIMIT_DATA above what a forked replica has mapped already, or None."""

    def attach(self, pid: int, base_bytes: int, kill: Callable[[], None]) -> None:
        """Take note of the replica's process: its id, what it shares with its parent, and how to kill it."""

    def usage(self) -> MemoryUsage:
        """Return the figures of now; of the process' end where it has ended."""

    def kill(self) -> None:
        """Kill whatever still runs in the group, also processes that left the replica's session."""

    async def remove(self) -> None:
        """Leave nothing of the group; its processes have been killed."""


class MemoryController(Protocol):
    """One mechanism, for all replicas of a gateway."""

    name: str
    """`cgroup-v1`, `cgroup-v2` or `rlimit`: the source of every figure, in metrics too."""

    description: str
    """One sentence for people: what holds the limit here, and where."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """Of the groups, one a hierarchy."""

    def create(self, replica: str, limit_bytes: int | None) -> MemoryGroup:
        """Return the group of a replica about to start.

        Raises:
            OSError: the group cannot be made.
        """

    def sweep(self) -> int:
        """Kill and remove what an earlier gateway on this state directory left; return how many groups."""

    def close(self) -> None:
        """Leave nothing of the mechanism; all groups have been removed."""
