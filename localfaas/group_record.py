"""Which control groups a gateway has made, so that the next one finds those of one that was killed.

That one may run in another group itself, or hold its limits in another way: the kernel alone does not tell
where to look.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from localfaas.config import StatePaths, write_atomically
from localfaas.memory.cgroup import CgroupGroup

_log = logging.getLogger(__name__)


class GroupRecord:
    """The directories of one state directory's control groups, one a line."""

    def __init__(self, paths: StatePaths) -> None:
        self._file = paths.control_groups
        # A state directory that was copied records another one's.
        self._name = f"localfaas-{paths.identity}"

    def note(self, directories: Iterable[Path]) -> None:
        """Add directories, before there is a group in them.

        Where the disk does not take them the gateway goes on: only if it is killed, and the next makes its
        groups elsewhere, do these stay.
        """
        lines = dict.fromkeys([*map(str, self._read()), *map(str, directories)])
        text = "".join(f"{line}\n" for line in lines)
        try:
            if not self._file.exists() or self._file.read_text() != text:
                write_atomically(self._file, text)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._file, error.strerror)

    def sweep(self) -> int:
        """Kill and remove what an earlier gateway left; return of how many replicas there was something.

        To be called before there is an event loop.
        """
        replicas = set()
        for directory in self._read():
            with suppress(OSError):
                groups = [child for child in directory.iterdir() if child.is_dir()]
                replicas |= {group.name for group in groups}
                asyncio.run(_remove(groups))
                directory.rmdir()
        return len(replicas)

    def _read(self) -> list[Path]:
        """Return the directories that are still there."""
        try:
            lines = self._file.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [path for path in map(Path, lines) if path.name == self._name and path.is_dir()]


async def _remove(groups: Iterable[Path]) -> None:
    await asyncio.gather(*(CgroupGroup(group, version=1).remove() for group in groups))
