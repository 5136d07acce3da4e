"""Boxes of peers: which control groups, what is written into them, and what a kernel makes of it."""

import multiprocessing
import os
from pathlib import Path

import pytest
from parts import missing

from peer.errors import ConfigurationError
from peer.local import boxes
from peer.local.boxes import Boxes

MOUNTS = """\
30 23 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
33 30 0:29 / {root}/memory rw shared:15 - cgroup cgroup rw,memory
34 30 0:30 / {root}/cpu,cpuacct rw shared:16 - cgroup cgroup rw,cpu,cpuacct
"""
GROUPS = "9:memory:/user\n4:cpu,cpuacct:/\n0::/\n"


@pytest.fixture
def version_1(tmp_path: Path) -> tuple[Path, Path]:
    """Return the texts of a process in two hierarchies of version 1, which are plain folders."""
    for folder in ("memory/user", "cpu,cpuacct"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "groups").write_text(GROUPS)
    (tmp_path / "mounts").write_text(MOUNTS.format(root=tmp_path))
    return tmp_path / "groups", tmp_path / "mounts"


def test_boxes_of_version_1_have_limits_in_both_hierarchies(version_1, tmp_path: Path) -> None:
    made = boxes.make("t2.medium", 3, *version_1)

    name = f"peerless-box-{os.getpid()}-2"
    memory, cpu = tmp_path / "memory/user" / name, tmp_path / "cpu,cpuacct" / name
    assert (memory / "memory.limit_in_bytes").read_text() == str(4 << 30)
    assert (cpu / "cpu.cfs_quota_us").read_text() == "200000"
    assert (made.box.cpu_held_by, made.box.memory_held_by) == ("cgroup-v1", "cgroup-v1")
    assert (made.box.cpus, made.box.memory_bytes) == (2.0, 4 << 30)


def test_boxes_of_version_2_are_made_beside_the_own_group(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    (tmp_path / "groups").write_text("0::/a/own\n")
    (tmp_path / "mounts").write_text(f"31 30 0:27 /a {tmp_path} rw - cgroup2 cgroup2 rw\n")

    made = boxes.make("t3.small", 1, tmp_path / "groups", tmp_path / "mounts")

    group = tmp_path / f"peerless-box-{os.getpid()}-0"
    assert (group / "memory.max").read_text() == str(2 << 30)
    assert (group / "cpu.max").read_text() == "200000 100000"
    assert (made.box.cpu_held_by, made.box.memory_held_by) == ("cgroup-v2", "cgroup-v2")


def test_boxes_where_no_group_can_be_made_say_so(version_1, tmp_path: Path) -> None:
    for folder in ("memory/user", "cpu,cpuacct"):
        (tmp_path / folder).rmdir()

    made = boxes.make("t2.large", 2, *version_1)
    made.enter(1)
    made.remove()

    assert (made.box.cpu_held_by, made.box.memory_held_by) == ("", "")
    assert "cpu and memory not held" in made.box.note
    assert "No such file" in made.box.note


def test_boxes_say_what_the_machine_has_not(version_1) -> None:
    cores = len(os.sched_getaffinity(0))

    note = boxes.make("t2.2xlarge", cores, *version_1).box.note

    assert f"{cores} peers of 8 CPUs share {cores} cores" in note


def test_boxes_of_an_unknown_type_name_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"t2\.medium, t2\.large"):
        boxes.make("m7i.flex", 1)


def fill_memory(made: Boxes) -> None:
    made.enter(0)
    held = bytearray(2 << 30)
    held[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(held[:: os.sysconf("SC_PAGE_SIZE")])


def test_process_in_a_box_is_killed_above_its_memory_and_the_rank_is_told() -> None:
    made = boxes.make("t2.micro", 2)
    try:
        if not made.box.memory_held_by:
            missing(f"no control group can be made here: {made.box.note}")
        process = multiprocessing.get_context("fork").Process(target=fill_memory, args=(made,))

        process.start()
        process.join(60)

        assert process.exitcode == -9
        assert made.out_of_memory() == [0]
    finally:
        paths = [group.path for groups in made.groups for group in groups]
        made.remove()
    assert paths
    assert not any(path.exists() for path in paths)
