"""Memory limits by the kernel's control groups, version 1 and 2.

Source: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and .../cgroup-v2.html. A group is charged
    for the pages that its processes touch first, so what a replica shares with the warm parent it was forked
    from is not its.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localfaas.memory.interface import MemoryGroup, MemoryUsage

_log = logging.getLogger(__name__)

_REMOVE_ATTEMPTS = 200
_REMOVE_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class _Files:
    """Names of one version's files, and of the fields inside them."""

    usage: str
    peak: str
    limits: tuple[str, ...]
    inactive_file: str
    oom: str
    major_faults: str


_VERSION_FILES = {
    1: _Files(
        usage="memory.usage_in_bytes",
        peak="memory.max_usage_in_bytes",
        # The second exists only with swap accounting, and must not be below the first.
        limits=("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        inactive_file="total_inactive_file",
        oom="memory.oom_control",
        major_faults="total_pgmajfault",
    ),
    2: _Files(
        usage="memory.current",
        peak="memory.peak",
        limits=("memory.max",),
        inactive_file="inactive_file",
        oom="memory.events",
        major_faults="pgmajfault",
    ),
}


class CgroupMemory:
    """Every replica in a group of its own, `<parent>/localfaas-<identity>/<replica>`."""

    def __init__(self, parent: Path, version: int, identity: str) -> None:
        self.name = f"cgroup-v{version}"
        self.description = f"memory limits are held by the kernel: cgroup v{version} under {parent}"
        self._version = version
        self._directory = parent / f"localfaas-{identity}"
        self._prepare(parent)

    def _prepare(self, parent: Path) -> None:
        self._directory.mkdir(exist_ok=True)
        if self._version == 2:
            # Moving a process needs the right to write here as well: it is the common ancestor.
            with (parent / "cgroup.procs").open("a"):
                pass
            (self._directory / "cgroup.subtree_control").write_text("+memory")

    def create(self, replica: str, limit_bytes: int | None) -> MemoryGroup:
        """Return a new group with that limit; see the interface."""
        group = CgroupGroup(self._directory / replica, self._version)
        group.path.mkdir()
        try:
            if limit_bytes is not None:
                self._limit(group.path, limit_bytes)
        except OSError:
            group.path.rmdir()
            raise
        return group

    def _limit(self, path: Path, limit_bytes: int) -> None:
        first, *others = _VERSION_FILES[self._version].limits
        (path / first).write_text(str(limit_bytes))
        for other in others:
            with suppress(OSError):
                (path / other).write_text(str(limit_bytes))
        if self._version == 2:
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with suppress(OSError):
                    (path / file).write_text(value)

    def sweep(self) -> int:
        """Kill and remove leftover groups; see the interface."""
        leftovers = [child for child in self._directory.iterdir() if child.is_dir()]
        for path in leftovers:
            group = CgroupGroup(path, self._version)
            group.kill()
            asyncio.run(group.remove())
        return len(leftovers)

    def close(self) -> None:
        """Remove the directory of the groups."""
        with suppress(OSError):
            self._directory.rmdir()


class CgroupGroup:
    """The control group of one replica."""

    rlimit_data_bytes: int | None = None

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.join_paths: tuple[str, ...] = (str(path / "cgroup.procs"),)
        self._version = version
        self._files = _VERSION_FILES[version]

    def attach(self, pid: int, base_bytes: int, kill: Callable[[], None]) -> None:
        """Nothing to note: the kernel knows the group's processes."""

    def usage(self) -> MemoryUsage:
        """Return the figures of now; of zeros once the group is removed."""
        try:
            stat = _read_fields(self.path / "memory.stat")
            used = int((self.path / self._files.usage).read_text())
            peak = self._peak(used)
            events = _read_fields(self.path / self._files.oom)
            reclaims = (
                int((self.path / "memory.failcnt").read_text())
                if self._version == 1
                else events.get("max", 0)
            )
        except OSError:
            return MemoryUsage()
        return MemoryUsage(
            working_set_bytes=max(0, used - stat.get(self._files.inactive_file, 0)),
            peak_bytes=peak,
            oom_kills=events.get("oom_kill", 0),
            major_faults=stat.get(self._files.major_faults, 0),
            reclaims=reclaims,
        )

    def _peak(self, used: int) -> int:
        # memory.peak is there from Linux 5.19 on.
        with suppress(FileNotFoundError):
            return int((self.path / self._files.peak).read_text())
        return used

    def kill(self) -> None:
        """Kill every process of the group."""
        with suppress(OSError):
            for pid in (self.path / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    async def remove(self) -> None:
        """Remove the group, once the kernel has let its last process go."""
        for _ in range(_REMOVE_ATTEMPTS):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                self.kill()
                await asyncio.sleep(_REMOVE_PAUSE_SECONDS)
            else:
                return
        _log.warning("control group %s is still in use; the next start removes it", self.path)


def _read_fields(path: Path) -> dict[str, int]:
    """Return the `name value` lines of a control file."""
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
