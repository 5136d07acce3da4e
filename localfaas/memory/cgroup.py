"""Memory limits by the kernel's control groups, version 1 and 2.

Source: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and .../cgroup-v2.html. A group is charged
    for the pages that its processes touch first, so what a replica shares with the warm parent it was forked
    from is not its. Pressure is version 2's alone, but needs no controller: where the memory controller is
    version 1's, a second, empty group of version 2 beside it still has each replica's.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localfaas.memory.interface import MemoryGroup, MemoryPressure, MemoryUsage

_log = logging.getLogger(__name__)

_MICROSECOND = 1e-6
# A charge is tried against the limit with swap first, where recent kernels count no failure. So that one is
# above the limit proper by more than a charge, at most a huge page, can be.
SWAP_MARGIN_BYTES = 4 << 20
PROCESSES_FILE = "pids.max"
"""The most processes of a group; in a hierarchy of its own under version 1."""

_SIDE_CONTROLLERS = ("cpu", "pids")
_REMOVE_ATTEMPTS = 200
_REMOVE_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class _Files:
    """Names of one version's files, and of the fields inside them."""

    usage: str
    peak: str
    limits: tuple[str, ...]
    inactive_file: str
    cache: str
    oom: str
    major_faults: str


_VERSION_FILES = {
    1: _Files(
        usage="memory.usage_in_bytes",
        peak="memory.max_usage_in_bytes",
        # The second exists only with swap accounting, and bounds what may be swapped out.
        limits=("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        inactive_file="total_inactive_file",
        cache="total_cache",
        oom="memory.oom_control",
        major_faults="total_pgmajfault",
    ),
    2: _Files(
        usage="memory.current",
        peak="memory.peak",
        limits=("memory.max",),
        inactive_file="inactive_file",
        cache="file",
        oom="memory.events",
        major_faults="pgmajfault",
    ),
}


class CgroupMemory:
    """Every replica in a group of its own, `<parent>/localfaas-<identity>/<replica>`.

    Args:
        parent: where groups may be made.
        version: of the memory controller there, 1 or 2.
        identity: of the gateway.
        pressure_parent: with version 1, a directory of version 2's where groups that only measure pressure
            may be made.
    """

    def __init__(
        self, parent: Path, version: int, identity: str, pressure_parent: Path | None = None
    ) -> None:
        self.name = f"cgroup-v{version}"
        self.description = f"memory limits are held by the kernel: cgroup v{version} under {parent}"
        self.passed_on: frozenset[str] = frozenset()
        """Controllers besides memory that its groups of version 2 have."""

        self._version = version
        self._directory = parent / f"localfaas-{identity}"
        self._prepare(parent)
        self._pressure_directory: Path | None = None
        if pressure_parent is not None:
            with suppress(OSError):
                self._pressure_directory = _pressure_directory(pressure_parent / self._directory.name)

    def _prepare(self, parent: Path) -> None:
        self._directory.mkdir(exist_ok=True)
        if self._version == 2:
            # Moving a process needs the right to write here as well: it is the common ancestor.
            with (parent / "cgroup.procs").open("a"):
                pass
            control = self._directory / "cgroup.subtree_control"
            control.write_text("+memory")
            with suppress(OSError):
                offered = (self._directory / "cgroup.controllers").read_text().split()
                for controller in set(_SIDE_CONTROLLERS).intersection(offered):
                    control.write_text(f"+{controller}")
                    self.passed_on |= {controller}

    def create(self, replica: str, limit_bytes: int | None) -> MemoryGroup:
        """Return a new group with that limit; see the interface."""
        group = self._group(replica)
        group.path.mkdir()
        try:
            if limit_bytes is not None:
                self._limit(group.path, limit_bytes)
            if group.pressure_path is not None:
                group.pressure_path.mkdir(exist_ok=True)
        except OSError:
            group.path.rmdir()
            raise
        return group

    def _group(self, replica: str) -> "CgroupGroup":
        pressure = self._pressure_directory
        return CgroupGroup(
            self._directory / replica, self._version, None if pressure is None else pressure / replica
        )

    def _limit(self, path: Path, limit_bytes: int) -> None:
        first, *others = _VERSION_FILES[self._version].limits
        (path / first).write_text(str(limit_bytes))
        for other in others:
            with suppress(OSError):
                (path / other).write_text(str(limit_bytes + SWAP_MARGIN_BYTES))
        if self._version == 2:
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with suppress(OSError):
                    (path / file).write_text(value)

    def sweep(self) -> int:
        """Kill and remove leftover groups; see the interface."""
        leftovers = {child.name for place in self.directories for child in place.iterdir() if child.is_dir()}
        for replica in leftovers:
            group = self._group(replica)
            group.kill()
            asyncio.run(group.remove())
        return len(leftovers)

    def close(self) -> None:
        """Remove the directories of the groups."""
        for place in self.directories:
            with suppress(OSError):
                place.rmdir()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Those of the limits, and of the groups that only measure pressure; see the interface."""
        return tuple(place for place in (self._directory, self._pressure_directory) if place is not None)


class CgroupGroup:
    """The control group of one replica, whoever made it.

    Args:
        path: its directory.
        version: of the memory controller, 1 or 2.
        pressure_path: with version 1, the replica's group of version 2, whose pressure is read.
    """

    rlimit_data_bytes: int | None = None

    def __init__(self, path: Path, version: int, pressure_path: Path | None = None) -> None:
        self.path = path
        self.pressure_path = pressure_path
        self.join_paths: tuple[str, ...] = tuple(str(place / "cgroup.procs") for place in self._places)
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
            cache_bytes=stat.get(self._files.cache, 0),
            pressure=read_pressure(self.pressure_path or self.path),
        )

    @property
    def _places(self) -> list[Path]:
        return [place for place in (self.path, self.pressure_path) if place is not None]

    def _peak(self, used: int) -> int:
        # memory.peak is there from Linux 5.19 on.
        with suppress(FileNotFoundError):
            return int((self.path / self._files.peak).read_text())
        return used

    def kill(self) -> None:
        """Kill every process of the group, which has no more children from now on, where that can be held."""
        for place in self._places:
            with suppress(OSError):
                if (place / PROCESSES_FILE).exists():
                    (place / PROCESSES_FILE).write_text("0")
            with suppress(OSError):
                for pid in (place / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)

    async def remove(self) -> None:
        """Remove the group, once the kernel has let its last process go."""
        for place in self._places:
            await self._remove(place)

    async def _remove(self, place: Path) -> None:
        for _ in range(_REMOVE_ATTEMPTS):
            try:
                place.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                self.kill()
                await asyncio.sleep(_REMOVE_PAUSE_SECONDS)
            else:
                return
        _log.warning("control group %s is still in use; the next start removes it", place)


def read_pressure(group: Path) -> MemoryPressure | None:
    """Return the memory pressure of a control group since it was made, None where the kernel has none."""
    try:
        lines = (group / "memory.pressure").read_text().splitlines()
    except OSError:
        return None
    seconds = {}
    for kind, *fields in map(str.split, lines):
        values = dict(field.split("=", 1) for field in fields)
        seconds[kind] = int(values["total"]) * _MICROSECOND
    return MemoryPressure(seconds.get("some", 0.0), seconds.get("full", 0.0))


def _pressure_directory(path: Path) -> Path | None:
    """Make the directory of the groups that measure pressure; None where the kernel does not measure it."""
    path.mkdir(exist_ok=True)
    if read_pressure(path) is not None:
        return path
    path.rmdir()
    return None


def _read_fields(path: Path) -> dict[str, int]:
    """Return the `name value` lines of a control file."""
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
