"""CPU limits of replicas by the kernel's control groups, version 1 and 2, where some can be made.

Source: https://docs.kernel.org/scheduler/sched-bwc.html and .../admin-guide/cgroup-v2.html. Under version 2
    the group is that of the replica's memory, for a process is in one only.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from localfaas.memory.cgroup import CgroupGroup, CgroupMemory
from localfaas.memory.choose import find_groups
from localfaas.memory.interface import MemoryController, MemoryGroup

_log = logging.getLogger(__name__)

_PERIOD_MICROSECONDS = 100_000
# The least that the kernel takes.
_LEAST_QUOTA_MICROSECONDS = 1_000


class CpuLimit(Protocol):
    """The CPU limit of one replica."""

    join_paths: tuple[str, ...]
    """Files that the replica writes `0` to before anything else, besides those of its memory."""

    async def remove(self) -> None:
        """Leave nothing of it; the replica's processes have been killed."""


class CpuController(Protocol):
    """One mechanism, for all replicas of a gateway."""

    description: str
    """One sentence for people: what holds the limit here, and where."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """Of groups that are not the memory's."""

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> CpuLimit:
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
    if isinstance(memory, CgroupMemory) and memory.passes_cpu_on:
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

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> CpuLimit:
        """Limit the group; see the interface."""
        assert isinstance(memory, CgroupGroup)
        (memory.path / "cpu.max").write_text(f"{_quota_microseconds(cpus)} {_PERIOD_MICROSECONDS}")
        return _InMemoryGroup()

    def sweep(self) -> None:
        """Find nothing: the groups are the memory's."""

    def close(self) -> None:
        """Leave the groups to the memory's."""


class _InMemoryGroup:
    join_paths: tuple[str, ...] = ()

    async def remove(self) -> None:
        """Leave the group to the memory's."""


class SeparateCpu:
    """Every limited replica in a group of its own in version 1, `<parent>/localfaas-<identity>/<replica>`.

    Raises:
        OSError: no group can be made.
    """

    def __init__(self, parent: Path, identity: str) -> None:
        self.description = f"CPU limits are held by the kernel: cgroup v1 under {parent}"
        self._directory = parent / f"localfaas-{identity}"
        self.directories = (self._directory,)
        self._directory.mkdir(exist_ok=True)
        if not os.access(self._directory / "cpu.cfs_quota_us", os.W_OK):
            self._directory.rmdir()
            raise PermissionError(f"{self._directory} takes no quota")

    def create(self, replica: str, cpus: float, memory: MemoryGroup) -> CpuLimit:
        """Make a group; see the interface."""
        group = CgroupGroup(self._directory / replica, version=1)
        group.path.mkdir()
        try:
            (group.path / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            (group.path / "cpu.cfs_quota_us").write_text(str(_quota_microseconds(cpus)))
        except OSError:
            group.path.rmdir()
            raise
        return group

    def sweep(self) -> None:
        """Kill and remove leftover groups; see the interface."""
        for child in self._directory.iterdir():
            if child.is_dir():
                asyncio.run(CgroupGroup(child, version=1).remove())

    def close(self) -> None:
        """Remove the directory of the groups."""
        with suppress(OSError):
            self._directory.rmdir()
