"""What every mechanism that limits memory offers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


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
    """

    working_set_bytes: int = 0
    peak_bytes: int = 0
    oom_kills: int = 0
    major_faults: int = 0
    reclaims: int = 0


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

    def create(self, replica: str, limit_bytes: int | None) -> MemoryGroup:
        """Return the group of a replica about to start.

        Raises:
            OSError: the group cannot be made.
        """

    def sweep(self) -> int:
        """Kill and remove what an earlier gateway on this state directory left; return how many groups."""

    def close(self) -> None:
        """Leave nothing of the mechanism; all groups have been removed."""
