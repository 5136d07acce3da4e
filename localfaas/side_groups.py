"""Control groups of replicas beside those of their memory: one a replica, in one hierarchy of version 1."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from localfaas.memory.cgroup import CgroupGroup


class GroupLimit(Protocol):
    """A limit of one replica besides that of its memory."""

    join_paths: tuple[str, ...]
    """Files that the replica writes `0` to before anything else, besides those of its memory."""

    def kill(self) -> None:
        """Kill whatever still runs under it."""

    async def remove(self) -> None:
        """Leave nothing of it; the replica's processes have been killed."""


class InMemoryGroup:
    """A limit in the group of the replica's memory, under version 2: a process is in one group only."""

    join_paths: tuple[str, ...] = ()

    def kill(self) -> None:
        """Leave the processes to the memory's group."""

    async def remove(self) -> None:
        """Leave the group to the memory's."""


class SideGroups:
    """The groups `<parent>/localfaas-<identity>/<replica>`.

    Raises:
        OSError: no group can be made, or it does not take the limit.
    """

    def __init__(self, parent: Path, identity: str, limit_file: str) -> None:
        self._directory = parent / f"localfaas-{identity}"
        self._directory.mkdir(exist_ok=True)
        if not os.access(self._directory / limit_file, os.W_OK):
            self._directory.rmdir()
            raise PermissionError(f"{self._directory} has no {limit_file} that can be written")

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the groups are."""
        return (self._directory,)

    def make(self, replica: str, values: Mapping[str, str]) -> CgroupGroup:
        """Return a new group whose files have these values.

        Raises:
            OSError: it cannot be made; nothing of it is left.
        """
        group = CgroupGroup(self._directory / replica, version=1)
        group.path.mkdir()
        try:
            for name, value in values.items():
                (group.path / name).write_text(value)
        except OSError:
            group.path.rmdir()
            raise
        return group

    def sweep(self) -> None:
        """Kill and remove what an earlier gateway on this state directory left."""
        for child in self._directory.iterdir():
            if child.is_dir():
                asyncio.run(CgroupGroup(child, version=1).remove())

    def close(self) -> None:
        """Remove the directory of the groups; all have been removed."""
        with suppress(OSError):
            self._directory.rmdir()
