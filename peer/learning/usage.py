"""What this process uses: memory as the kernel counts it, seconds by phase."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer.messages import Usage

FUNCTION_PHASES = ("load_model", "fetch", "preprocess", "compute", "upload")
"""What the functions' time is counted to."""

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MICROSECOND = 1e-6


@dataclass(frozen=True)
class GroupMemory:
    """Memory of this process' control group as the kernel counts it; zeros where it does not tell.

    Attributes:
        usage_bytes: all that the group is charged for.
        working_set_bytes: that without inactive file pages, which can be reclaimed at once.
        limit_bytes: 0 where there is none.
        reclaims: how often the limit was reached.
        pressure_seconds: in which something of the group waited for memory (PSI some), None where the kernel
            has no such figure of the group.
    """

    usage_bytes: int = 0
    working_set_bytes: int = 0
    limit_bytes: int = 0
    reclaims: int = 0
    pressure_seconds: float | None = None


class Phases:
    """Seconds spent in named phases; one inside another counts to itself only, so that phases add up.

    What the process had used when it was made is kept, so that `usage` tells what one invocation did.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory_before = group_memory()
        self.major_faults_before = _major_faults()
        self.cpu_seconds_before = time.process_time()
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block to `name`, also if it ends with an error."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def replica_name() -> str:
    """Return this replica's name: `HOSTNAME`, which OpenFaaS and localfaas set, else the host's."""
    return os.environ.get("HOSTNAME") or socket.gethostname()


def usage(phases: Phases, *, is_cold_start: bool) -> Usage:
    """Return what this process uses, and what it has used since `phases` was made."""
    before, memory = phases.memory_before, group_memory()
    pressure_seconds = None
    if memory.pressure_seconds is not None and before.pressure_seconds is not None:
        pressure_seconds = memory.pressure_seconds - before.pressure_seconds
    return Usage(
        phase_seconds=dict(phases.seconds),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        cgroup_usage_bytes=memory.usage_bytes,
        cgroup_limit_bytes=memory.limit_bytes,
        is_cold_start=is_cold_start,
        replica=replica_name(),
        memory_limit_bytes=memory.limit_bytes or _announced_limit(),
        working_set_bytes=memory.working_set_bytes,
        memory_pressure_seconds=pressure_seconds,
        memory_reclaims=memory.reclaims - before.reclaims,
        major_faults=_major_faults() - phases.major_faults_before,
        cpu_seconds=time.process_time() - phases.cpu_seconds_before,
    )


def group_memory(membership: Path = _MEMBERSHIP, root: Path = _CGROUP_ROOT) -> GroupMemory:
    """Return the memory of this process' control group.

    Both versions are read: docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html. A container
    may see its own group at the root of the mount, so the root is tried second. A group without a limit may
    be shared with any other process: of it, only the usage is told.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return GroupMemory()
    for _, controllers, path in lines:
        if controllers == "":
            found = _version_2(root, path)
        elif "memory" in controllers.split(","):
            unified = next((path for _, names, path in lines if names == ""), None)
            found = _version_1(root, path, unified)
        else:
            continue
        if found is not None:
            is_own = found.limit_bytes > 0
            return found if is_own else GroupMemory(usage_bytes=found.usage_bytes)
    return GroupMemory()


def _version_1(root: Path, path: str, unified_path: str | None) -> GroupMemory | None:
    group = _existing(root / "memory", path, "memory.usage_in_bytes")
    if group is None:
        return None
    usage_bytes = _bytes_in(group / "memory.usage_in_bytes")
    pressure = None if unified_path is None else _existing(root / "unified", unified_path, "memory.pressure")
    return GroupMemory(
        usage_bytes,
        max(0, usage_bytes - _field(group / "memory.stat", "total_inactive_file")),
        _bytes_in(group / "memory.limit_in_bytes"),
        _bytes_in(group / "memory.failcnt"),
        None if pressure is None else _pressure_seconds(pressure / "memory.pressure"),
    )


def _version_2(root: Path, path: str) -> GroupMemory | None:
    group = _existing(root, path, "memory.current")
    if group is None:
        return None
    usage_bytes = _bytes_in(group / "memory.current")
    return GroupMemory(
        usage_bytes,
        max(0, usage_bytes - _field(group / "memory.stat", "inactive_file")),
        _bytes_in(group / "memory.max"),
        _field(group / "memory.events", "max"),
        _pressure_seconds(group / "memory.pressure"),
    )


def _existing(base: Path, path: str, file: str) -> Path | None:
    groups = (base / path.lstrip("/"), base)
    return next((group for group in groups if (group / file).is_file()), None)


def _field(file: Path, name: str) -> int:
    """Return one of a file's `name value` lines, 0 where it is not told."""
    try:
        return int(dict(line.split() for line in file.read_text().splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0


def _pressure_seconds(file: Path) -> float | None:
    """Return `some … total=<microseconds>` in seconds."""
    try:
        some = next(line for line in file.read_text().splitlines() if line.startswith("some "))
    except (OSError, StopIteration):
        return None
    return int(some.rpartition("total=")[2]) * _MICROSECOND


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _announced_limit() -> int:
    """Return the limit that localfaas names where no control group shows it."""
    text = os.environ.get("LOCALFAAS_MEMORY_LIMIT_BYTES", "")
    return int(text) if text.isdigit() else 0


def _bytes_in(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    # cgroup v1 says "no limit" with the largest number of pages
    return int(text) if text.isdigit() and int(text) < 1 << 62 else 0
