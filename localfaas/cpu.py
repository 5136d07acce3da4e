"""CPU limits of replicas by the kernel's control groups, version 1 and 2, where some can be made.

Source: https://docs.kernel.org/scheduler/sched-bwc.html and .../admin-guide/cgroup-v2.html. Under version 2
    the group is that of the replica's memory, for a process is in one only.
"""

import logging
from pathlib import Path
from typing import Protocol

from localfaas.memory.cgroup import CgroupGroup, CgroupMemory
from localfaas.memory.choose import find_groups
from localfaas.memory.interface import MemoryController, MemoryGroup
from localfaas.side_groups import GroupLimit, InMemoryGroup, SideGroups

_log = logging.getLogger(__name__)

_PERIOD_MICROSECONDS = 100_000
# The least that the kernel takes.
_LEAST_QUOTA_MICROSECONDS = 1_000


class CpuController(Protocol):
    """One mechanism, for all replicas of a gateway."""

    description: str
    """One sentence for people: what holds the limit here, and where."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """Of groups that are not the memory's."""

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> GroupLimit:
        """Return the limit of a replica about to start, which has that memory group.

        Raises:
            OSError: it cannot be made.
        """

    def sweep(self) -> None:
        """Remove what an earlier gateway on this state directory left."""

    def close(self) -> None:
        """Leave nothing of the mechanism; all limits have been removed."""


def choose_cpu_controller(
    memory: MemoryController,
    identity: str,
    *,
    own_groups: Path = Path("/proc/self/cgroup"),
    mounts: Path = Path("/proc/self/mountinfo"),
) -> CpuController | None:
    """Return what can limit CPU for the gateway of that identity, or None where nothing can."""
    if isinstance(memory, CgroupMemory) and "cpu" in memory.passed_on:
        return UnifiedCpu()
    try:
        parent = find_groups(own_groups.read_text(), mounts.read_text())["cpu"]
        return SeparateCpu(parent, identity)
    except (KeyError, OSError) as error:
        _log.info("no control group can limit CPU: %s", error)
    return None


def _quota_microseconds(cpus: float) -> int:
    return max(_LEAST_QUOTA_MICROSECONDS, round(cpus * _PERIOD_MICROSECONDS))


class UnifiedCpu:
    """A limit in the replica's group of version 2."""

    description = "CPU limits are held by the kernel: cgroup v2, in the groups of the memory limits"
    directories: tuple[Path, ...] = ()

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> GroupLimit:
        """Limit the group; see the interface."""
        assert isinstance(memory, CgroupGroup)
        (memory.path / "cpu.max").write_text(f"{_quota_microseconds(cpus)} {_PERIOD_MICROSECONDS}")
        return InMemoryGroup()

    def sweep(self) -> None:
        """Find nothing: the groups are the memory's."""

    def close(self) -> None:
        """Leave the groups to the memory's."""


class SeparateCpu(SideGroups):
    """Every limited replica in a group of its own in version 1.

    Raises:
        OSError: no group can be made.
    """

    def __init__(self, parent: Path, identity: str) -> None:
        super().__init__(parent, identity, "cpu.cfs_quota_us")
        self.description = f"CPU limits are held by the kernel: cgroup v1 under {parent}"

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> GroupLimit:
        """Make a group; see the interface."""
        quota = str(_quota_microseconds(cpus))
        return self.make(replica, {"cpu.cfs_period_us": str(_PERIOD_MICROSECONDS), "cpu.cfs_quota_us": quota})
