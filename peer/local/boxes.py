"""Peers of this machine, each in a box like a named instance type: so many CPUs, so much memory.

Control groups hold it, of version 1 or 2, where some may be made. A group is charged for pages that its
processes touch first: what peers share with the command that they are forked from (Python, torch) is not in
their limits.

Source: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html, .../scheduler/sched-bwc.html,
    .../admin-guide/cgroup-v2.html
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path

import msgspec
import yaml

from peer.errors import ConfigurationError
from peer.messages import Message
from peer.sizes import mib, parse_size
from peer.store.retry import Patience, poll

BOX_FILE = "box.json"

_PREFIX = "peerless-box-"
_PERIOD_MICROSECONDS = 100_000
_GONE = Patience(total_seconds=2.0, first_seconds=0.01, longest_seconds=0.1)
_KINDS = ("cgroup", "cgroup2")


class _Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cpus: float
    memory: str


class Box(Message, frozen=True, forbid_unknown_fields=False):
    """What a peer was confined to, as a named instance type is.

    `cpu_held_by` and `memory_held_by` say what the kernel enforced it with (`cgroup-v1`, `cgroup-v2`); empty
    if nothing did. `note` says why not, and what this machine cannot give.
    """

    instance_type: str
    cpus: float
    memory_bytes: int
    cpu_held_by: str
    memory_held_by: str
    note: str = ""


@dataclass(frozen=True)
class Hierarchy:
    """A directory in which groups with these controllers may be made, and their version."""

    directory: Path
    version: int
    controllers: frozenset[str]


@dataclass(frozen=True)
class _Group:
    path: Path
    hierarchy: Hierarchy


@dataclass
class Boxes:
    """The boxes of a run's local peers, made by the process that forks them.

    Attributes:
        box: what each of them is.
        groups: of each peer, by rank.
    """

    box: Box
    groups: list[list[_Group]] = field(default_factory=list)

    def enter(self, rank: int) -> None:
        """Put this process, and what it starts from now on, into the box of a peer."""
        for group in self.groups[rank]:
            (group.path / "cgroup.procs").write_text("0")

    def out_of_memory(self) -> list[int]:
        """Return the ranks of peers in whose boxes the kernel has killed something."""
        return [rank for rank, groups in enumerate(self.groups) if any(map(_has_killed, groups))]

    def remove(self) -> None:
        """Leave no group, once the peers have ended."""
        for group in (group for groups in self.groups for group in groups):
            poll(partial(_gone, group.path), _GONE)
        self.groups = []


def make(
    instance_type: str,
    num_peers: int,
    own_groups: Path = Path("/proc/self/cgroup"),
    mounts: Path = Path("/proc/self/mountinfo"),
) -> Boxes:
    """Return a box a peer, held as far as the kernel lets us.

    Args:
        instance_type: one of `instances.yaml`.
        num_peers: on this machine.
        own_groups: says in which groups this process is.
        mounts: says where these are.

    Raises:
        ConfigurationError: there is no such type.
    """
    size = _size_of(instance_type)
    limits = {"cpu": size.cpus, "memory": float(parse_size(size.memory))}
    groups: list[list[_Group]] = [[] for _ in range(num_peers)]
    held, reasons = dict[str, str](), list[str]()
    for hierarchy in hierarchies(own_groups.read_text(), mounts.read_text()):
        wanted = hierarchy.controllers & (limits.keys() - held.keys())
        if not wanted:
            continue
        try:
            made = _make_groups(hierarchy, num_peers, {name: limits[name] for name in wanted})
        except OSError as error:
            reasons.append(f"{hierarchy.directory}: {error.strerror}")
            continue
        for group, of_peer in zip(made, groups, strict=True):
            of_peer.append(group)
        held |= dict.fromkeys(wanted, f"cgroup-v{hierarchy.version}")
    notes = [*_unheld(held, reasons), *_too_much(size, num_peers)]
    box = Box(
        instance_type=instance_type,
        cpus=size.cpus,
        memory_bytes=parse_size(size.memory),
        cpu_held_by=held.get("cpu", ""),
        memory_held_by=held.get("memory", ""),
        note="; ".join(notes),
    )
    return Boxes(box, groups)


def hierarchies(own_groups: str, mounts: str) -> Iterator[Hierarchy]:
    """Yield where groups that limit CPU or memory may be made, best first.

    Under version 2 they come beside this process' group, if that is passed controllers on, for a group with
    processes has no limited children; at the root they come below it.

    Args:
        own_groups: text of /proc/self/cgroup.
        mounts: text of /proc/self/mountinfo.
    """
    memberships = [line.split(":", 2) for line in own_groups.splitlines()]
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in _KINDS:
            continue
        root, mount_point = before.split(" ")[3], Path(before.split(" ")[4])
        for number, names, group in memberships:
            below = os.path.relpath(group, root) if group.startswith(root) else "."
            path = Path(os.path.normpath(mount_point / below))
            controllers = frozenset({"cpu", "memory"} & set(names.split(",")) & set(options.split(",")))
            if kind == "cgroup" and controllers:
                yield Hierarchy(path, 1, controllers)
            elif kind == "cgroup2" and number == "0":
                places = (path,) if path == mount_point else (path.parent, path)
                yield from (found for place in places if (found := _version_2(place)).controllers)


def _version_2(place: Path) -> Hierarchy:
    try:
        passed_on = set((place / "cgroup.subtree_control").read_text().split())
    except OSError:
        passed_on = set()
    return Hierarchy(place, 2, frozenset({"cpu", "memory"} & passed_on))


def _make_groups(hierarchy: Hierarchy, num_peers: int, limits: dict[str, float]) -> list[_Group]:
    """Return a new group a peer; if one cannot be made, none is left."""
    for left in hierarchy.directory.glob(f"{_PREFIX}*"):
        _gone(left)  # of a command that was killed; one that is in use stays
    groups: list[_Group] = []
    try:
        for rank in range(num_peers):
            path = hierarchy.directory / f"{_PREFIX}{os.getpid()}-{rank}"
            path.mkdir()
            groups.append(_Group(path, hierarchy))
            for name, value in _files(hierarchy.version, limits):
                (path / name).write_text(value)
    except OSError:
        for group in groups:
            _gone(group.path)
        raise
    return groups


def _files(version: int, limits: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the control files that hold limits, and what to write into them, in order."""
    if "memory" in limits:
        name = "memory.limit_in_bytes" if version == 1 else "memory.max"
        yield name, str(int(limits["memory"]))
    if "cpu" in limits:
        quota = str(round(limits["cpu"] * _PERIOD_MICROSECONDS))
        if version == 1:
            yield "cpu.cfs_period_us", str(_PERIOD_MICROSECONDS)
            yield "cpu.cfs_quota_us", quota
        else:
            yield "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}"


def _unheld(held: dict[str, str], reasons: Sequence[str]) -> Iterator[str]:
    missing = [name for name in ("cpu", "memory") if name not in held]
    if missing:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        yield f"{' and '.join(missing)} not held: no control group can be made{why}"


def _too_much(size: _Size, num_peers: int) -> Iterator[str]:
    """Yield what the boxes have together and this machine has not."""
    cores = len(os.sched_getaffinity(0))
    if num_peers * size.cpus > cores:
        yield f"{num_peers} peers of {size.cpus:g} CPUs share {cores} cores"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_peers * parse_size(size.memory) > memory_bytes:
        yield f"{num_peers} peers of {size.memory}B share {mib(memory_bytes)}"


def _has_killed(group: _Group) -> bool:
    name = "memory.oom_control" if group.hierarchy.version == 1 else "memory.events"
    try:
        lines = (group.path / name).read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)


def _gone(path: Path) -> bool | None:
    """Return True once an empty group is removed; None while something is in it."""
    with suppress(OSError):
        path.rmdir()
    return None if path.exists() else True


def check_instance_type(name: str) -> None:
    """Return if there is such an instance type.

    Raises:
        ConfigurationError: there is none; the message has those that there are.
    """
    _size_of(name)


def _size_of(name: str) -> _Size:
    sizes = _sizes()
    if name not in sizes:
        raise ConfigurationError(f"{name[:80]!r} is no instance type known here: take {', '.join(sizes)}")
    return sizes[name]


def _sizes() -> dict[str, _Size]:
    text = (resources.files("peer.local") / "instances.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), dict[str, _Size])
