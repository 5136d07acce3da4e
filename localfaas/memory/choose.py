"""Finding out which mechanism can limit memory here."""

import logging
import os
from pathlib import Path

from localfaas.config import Enforcement
from localfaas.errors import ConfigurationError
from localfaas.memory.cgroup import CgroupMemory
from localfaas.memory.interface import MemoryController
from localfaas.memory.rlimit import RlimitMemory

_log = logging.getLogger(__name__)


def choose_memory_controller(
    enforcement: Enforcement,
    identity: str,
    *,
    own_groups: Path = Path("/proc/self/cgroup"),
    mounts: Path = Path("/proc/self/mountinfo"),
) -> MemoryController:
    """Return the mechanism that holds memory limits for the gateway of that identity.

    `auto` takes a control group where one can be made, else RLIMIT_DATA with a watchdog.

    Raises:
        ConfigurationError: `cgroup` was asked for, and none can be made.
    """
    if enforcement == "rlimit":
        return RlimitMemory()
    reason = "no memory controller is mounted"
    own_text, mounts_text = own_groups.read_text(), mounts.read_text()
    for parent, version in find_parents(own_text, mounts_text):
        pressure_parent = find_pressure_parent(own_text, mounts_text) if version == 1 else None
        try:
            return CgroupMemory(parent, version, identity, pressure_parent)
        except OSError as error:
            reason = f"{parent}: {error.strerror or error}"
    if enforcement == "cgroup":
        raise ConfigurationError(
            f"no control group can be made ({reason}); run in a delegated cgroup "
            "(`systemd-run --user --scope -p Delegate=yes`), or use --memory-enforcement rlimit"
        )
    _log.info("no control group can be made: %s", reason)
    return RlimitMemory()


def find_parents(own_groups: str, mounts: str) -> list[tuple[Path, int]]:
    """Return the directories in which groups may be made, best first, each with its cgroup version.

    Under version 2 a group that has processes can have no limited children, so ours come beside this process'
    group, where its parent passes the memory controller on, or below it, where it is empty but for us and
    does so.

    Args:
        own_groups: text of /proc/self/cgroup.
        mounts: text of /proc/self/mountinfo.
    """
    found: list[tuple[Path, int]] = []
    memberships = [line.split(":", 2) for line in own_groups.splitlines()]
    for mount_point, root, kind, options in _cgroup_mounts(mounts):
        for hierarchy, controllers, group in memberships:
            path = _own_group(mount_point, root, group)
            if kind == "cgroup" and "memory" in controllers.split(",") and "memory" in options.split(","):
                found.append((path, 1))
            elif kind == "cgroup2" and hierarchy == "0":
                candidates = (path, path.parent) if path != mount_point else (path,)
                found += [(each, 2) for each in candidates if _passes_memory_on(each)]
    return found


def find_pressure_parent(own_groups: str, mounts: str) -> Path | None:
    """Return this process' group of version 2, for groups that need no controller; arguments as above."""
    return find_groups(own_groups, mounts).get("")


def find_groups(groups: str, mounts: str) -> dict[str, Path]:
    """Return the directory of each group that a process is in, by controller; that of version 2 is `""`.

    Args:
        groups: text of the process' /proc/<pid>/cgroup.
        mounts: text of /proc/self/mountinfo.
    """
    found: dict[str, Path] = {}
    memberships = [line.split(":", 2) for line in groups.splitlines()]
    for mount_point, root, kind, options in _cgroup_mounts(mounts):
        for hierarchy, controllers, group in memberships:
            if kind == "cgroup2" and hierarchy == "0":
                found[""] = _own_group(mount_point, root, group)
            elif kind == "cgroup" and hierarchy != "0":
                shared = set(controllers.split(",")) & set(options.split(","))
                found |= {controller: _own_group(mount_point, root, group) for controller in shared}
    return found


def _own_group(mount_point: Path, root: str, group: str) -> Path:
    below = os.path.relpath(group, root) if group.startswith(root) else "."
    return Path(os.path.normpath(mount_point / below))


def _cgroup_mounts(mounts: str) -> list[tuple[Path, str, str, str]]:
    """Return mount point, root, file system and super options of every cgroup mount."""
    found = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = before.split(" ")
            found.append((Path(fields[4]), fields[3], kind, options))
    return found


def _passes_memory_on(group: Path) -> bool:
    try:
        return "memory" in (group / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
