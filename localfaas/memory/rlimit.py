"""Memory limits without control groups: RLIMIT_DATA, and a watchdog of the resident memory.

A forked replica may map its limit above what its parent had mapped, so an allocation beyond it fails where
the function can catch it. The watchdog holds what RLIMIT_DATA cannot: shared mappings, child processes that
grew after an exec, and commands started by exec, whose base nobody knows beforehand.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from localfaas.memory.interface import MemoryGroup, MemoryUsage

_PERIOD_SECONDS = 0.01
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RlimitMemory:
    """RLIMIT_DATA for every replica, and one watchdog for all."""

    name = "rlimit"
    description = (
        "memory limits are held by RLIMIT_DATA and a watchdog that looks every 10 ms, since no control group "
        "can be made here: a limit may be passed for that long"
    )

    directories: tuple[Path, ...] = ()

    def __init__(self) -> None:
        self._groups: set[RlimitGroup] = set()
        self._watchdog: asyncio.Task[None] | None = None

    def create(self, replica: str, limit_bytes: int | None) -> MemoryGroup:
        """Return the replica's limit; see the interface."""
        group = RlimitGroup(limit_bytes, self._groups.discard)
        self._groups.add(group)
        if self._watchdog is None:
            self._watchdog = asyncio.get_running_loop().create_task(self._watch())
        return group

    def sweep(self) -> int:
        """Find nothing: no trace of an earlier gateway is left."""
        return 0

    def close(self) -> None:
        """Stop the watchdog."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            for group in tuple(self._groups):
                group.check()


class RlimitGroup:
    """The limit of one replica."""

    join_paths: tuple[str, ...] = ()

    def __init__(self, limit_bytes: int | None, forget: Callable[["RlimitGroup"], None]) -> None:
        self.rlimit_data_bytes = limit_bytes
        self._limit_bytes = limit_bytes
        self._forget = forget
        self._pid = 0
        self._base_bytes = 0
        self._peak_bytes = 0
        self._oom_kills = 0
        self._major_faults = 0
        self._kill: Callable[[], None] | None = None

    def attach(self, pid: int, base_bytes: int, kill: Callable[[], None]) -> None:
        """Take note of the process; see the interface."""
        self._pid, self._base_bytes, self._kill = pid, base_bytes, kill

    def check(self) -> None:
        """Kill the process if it is above its limit."""
        if self._kill is None:
            return
        private_bytes = self._private_bytes()
        if self._limit_bytes is not None and private_bytes > self._limit_bytes and self._oom_kills == 0:
            self._oom_kills = 1
            self._kill()

    def usage(self) -> MemoryUsage:
        """Return the figures of now; see the interface."""
        return MemoryUsage(
            self._private_bytes(), self._peak_bytes, self._oom_kills, self._read_major_faults()
        )

    def kill(self) -> None:
        """Nothing to do: the replica's session has been killed."""

    async def remove(self) -> None:
        """Stop watching the process."""
        self._kill = None
        self._forget(self)

    def _private_bytes(self) -> int:
        """Return the resident anonymous memory above what was there at the fork.

        Of a command, that of its children too: no RLIMIT_DATA holds them, and a watchdog has nothing else.
        """
        pids = [self._pid] if self._base_bytes else _family(self._pid)
        private_bytes = max(0, sum(map(_anonymous_bytes, pids)) - self._base_bytes)
        self._peak_bytes = max(self._peak_bytes, private_bytes)
        return private_bytes

    def _read_major_faults(self) -> int:
        with suppress(OSError):
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            self._major_faults = int(fields[9])
        return self._major_faults


def _anonymous_bytes(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        # A child is listed with the thread that started it.
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found
