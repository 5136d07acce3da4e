"""Memory and CPU of a container: from the files of its control group, else from the Engine.

The Engine's figures come from the same files, at a thousand times the price. They serve where the files
cannot be seen, for instance from inside another container.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localfaas.memory import MemoryUsage
from localfaas.memory.cgroup import CgroupGroup
from localfaas.memory.choose import find_groups
from localfaas.runtimes.docker.engine import StartedContainer

_NANO, _MICRO = 1e-9, 1e-6


@dataclass(frozen=True)
class ContainerGroup:
    """The control group of a container, or its two groups under version 1."""

    memory: CgroupGroup
    cpu_file: Path
    version: int

    def cpu_seconds(self) -> float | None:
        """Return the CPU time used, None once the group has gone."""
        with suppress(OSError):
            text = self.cpu_file.read_text()
            return int(text) * _NANO if self.version == 1 else int(text.split()[1]) * _MICRO
        return None


class ContainerMeter:
    """The figures of one container; the last ones are kept, since its group goes with it."""

    def __init__(self, group: ContainerGroup | None) -> None:
        """Read from `group`; with None, only what `take_stats` is given is known."""
        self.has_files = group is not None
        self._group = group
        self._usage = MemoryUsage()
        self._cpu_seconds = 0.0

    def refresh(self) -> None:
        """Take note of the figures of now, where they are in files."""
        self.memory()
        self.cpu_seconds()

    def memory(self) -> MemoryUsage:
        """Return the figures of now, of the container's end where it has ended."""
        if self._group is not None:
            usage = self._group.memory.usage()
            # A group that is being removed has nothing charged to it any more.
            if usage.peak_bytes:
                self._usage = usage
        return self._usage

    def cpu_seconds(self) -> float:
        """Return the CPU time used until now, or until the container's end."""
        if self._group is not None and (seconds := self._group.cpu_seconds()) is not None:
            self._cpu_seconds = max(seconds, self._cpu_seconds)
        return self._cpu_seconds

    def take_stats(self, stats: Mapping[str, Any]) -> None:
        """Take note of the Engine's own figures, which may be empty."""
        memory, cpu = stats.get("memory_stats") or {}, stats.get("cpu_stats") or {}
        if used := int(memory.get("usage", 0)):
            fields = memory.get("stats") or {}
            inactive = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
            self._usage = MemoryUsage(
                working_set_bytes=max(0, used - inactive),
                peak_bytes=max(used, int(memory.get("max_usage", 0)), self._usage.peak_bytes),
                oom_kills=self._usage.oom_kills,
                major_faults=int(fields.get("total_pgmajfault", fields.get("pgmajfault", 0))),
                reclaims=int(memory.get("failcnt", 0)),
                cache_bytes=int(fields.get("total_cache", fields.get("file", 0))),
            )
            self._cpu_seconds = int(cpu["cpu_usage"]["total_usage"]) * _NANO

    def final_memory(self, is_out_of_memory: bool, limit_bytes: int | None) -> MemoryUsage:
        """Return the figures of a container that has ended: one out of memory was at its limit."""
        usage = self._usage
        if is_out_of_memory:
            peak_bytes = max(usage.peak_bytes, limit_bytes or 0)
            usage = replace(usage, oom_kills=max(1, usage.oom_kills), peak_bytes=peak_bytes)
        return usage


def find_group(
    container: StartedContainer, processes: Path = Path("/proc"), mounts: Path = Path("/proc/self/mountinfo")
) -> ContainerGroup | None:
    """Return the control group of a container that runs, None where its files cannot be seen from here."""
    try:
        groups = (processes / str(container.pid) / "cgroup").read_text()
        mounted = mounts.read_text()
    except OSError:
        return None
    if container.id not in groups:
        # Process ids are counted otherwise here: this is another process.
        return None
    found = find_groups(groups, mounted)
    unified = found.get("")
    if unified is not None and container.id not in str(unified):
        # Where the Engine makes no group of version 2, its containers are in one that others are in, too.
        unified = None
    if "memory" in found and "cpuacct" in found:
        return ContainerGroup(CgroupGroup(found["memory"], 1, unified), found["cpuacct"] / "cpuacct.usage", 1)
    if unified is not None and (unified / "memory.current").exists():
        return ContainerGroup(CgroupGroup(unified, 2), unified / "cpu.stat", 2)
    return None
