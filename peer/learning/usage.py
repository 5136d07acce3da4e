"""What this process uses: memory as the kernel counts it, seconds by phase."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peer.messages import Usage

_CGROUP_ROOT = Path("/sys/fs/cgroup")


class Phases:
    """Seconds spent in named phases; one inside another counts to itself only, so that phases add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
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
    """Return what this process has used so far."""
    cgroup_usage_bytes, cgroup_limit_bytes = cgroup_memory()
    return Usage(
        phase_seconds=dict(phases.seconds),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        cgroup_usage_bytes=cgroup_usage_bytes,
        cgroup_limit_bytes=cgroup_limit_bytes,
        is_cold_start=is_cold_start,
        replica=replica_name(),
    )


def cgroup_memory(membership: Path = Path("/proc/self/cgroup"), root: Path = _CGROUP_ROOT) -> tuple[int, int]:
    """Return this process's cgroup memory usage and limit in bytes; 0 where there is none or it is not told.

    Both versions are read: docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html. A container
    may see its own group at the root of the mount, so the root is tried second.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.current", "memory.max")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.usage_in_bytes", "memory.limit_in_bytes")
        else:
            continue
        for group in (base / path.lstrip("/"), base):
            if (group / names[0]).is_file():
                return _bytes_in(group / names[0]), _bytes_in(group / names[1])
    return 0, 0


def _bytes_in(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    # cgroup v1 says "no limit" with the largest number of pages
    return int(text) if text.isdigit() and int(text) < 1 << 62 else 0
