"""How many processes and threads a replica may have, by the kernel's control groups, where some can be made.

Source: https://docs.kernel.org/admin-guide/cgroup-v1/pids.html; version 2 has the same file, in the group of
    the replica's memory. At the limit a fork fails with EAGAIN.
"""

import logging
from pathlib import Path
from typing import Protocol

from localfaas.memory.cgroup import PROCESSES_FILE, CgroupGroup, CgroupMemory
from localfaas.memory.choose import find_groups
from localfaas.memory.interface import MemoryController, MemoryGroup
from localfaas.side_groups import GroupLimit, InMemoryGroup, SideGroups

_log = logging.getLogger(__name__)

MAX_PROCESSES = 1_024
"""Of one replica, its threads included; a container has the same."""


class ProcessLimiter(Protocol):
    """One mechanism, for all replicas of a gateway."""

    description: str
    """One sentence for people: what holds the limit here, and where."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """Of groups that are not the memory's."""

    def create(self, replica: str, memory: MemoryGroup) -> GroupLimit:
        """Return the limit of a replica about to start, which has that memory group.

        Raises:
            OSError: it cannot be made.
        """

    def sweep(self) -> None:
        """Remove what an earlier gateway on this state directory left."""

    def close(self) -> None:
        """Leave nothing of the mechanism; all limits have been removed."""


def choose_process_limiter(
    memory: MemoryController,
    identity: str,
    *,
    own_groups: Path = Path("/proc/self/cgroup"),
    mounts: Path = Path("/proc/self/mountinfo"),
) -> ProcessLimiter | None:
    """Return what can limit processes for the gateway of that identity, or None where nothing can."""
    if isinstance(memory, CgroupMemory) and "pids" in memory.passed_on:
        return UnifiedProcessLimiter()
    try:
        parent = find_groups(own_groups.read_text(), mounts.read_text())["pids"]
        return SeparateProcessLimiter(parent, identity)
    except (KeyError, OSError) as error:
        _log.info("no control group can limit the number of processes: %s", error)
    return None


class UnifiedProcessLimiter:
    """A limit in the replica's group of version 2."""

    description = (
        f"a replica has at most {MAX_PROCESSES} processes: cgroup v2, in the groups of the memory limits"
    )
    directories: tuple[Path, ...] = ()

    def create(self, replica: str, memory: MemoryGroup) -> GroupLimit:
        """Limit the group; see the interface."""
        assert isinstance(memory, CgroupGroup)
        (memory.path / PROCESSES_FILE).write_text(str(MAX_PROCESSES))
        return InMemoryGroup()

    def sweep(self) -> None:
        """Find nothing: the groups are the memory's."""

    def close(self) -> None:
        """Leave the groups to the memory's."""


class SeparateProcessLimiter(SideGroups):
    """Every replica in a group of its own in version 1.

    Raises:
        OSError: no group can be made.
    """

    def __init__(self, parent: Path, identity: str) -> None:
        # The root of the hierarchy has no limit, its groups have.
        super().__init__(parent, identity, PROCESSES_FILE)
        self.description = f"a replica has at most {MAX_PROCESSES} processes: cgroup v1 under {parent}"

    def create(self, replica: str, memory: MemoryGroup) -> GroupLimit:
        """Make a group; see the interface."""
        return self.make(replica, {PROCESSES_FILE: str(MAX_PROCESSES)})
