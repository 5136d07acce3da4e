"""Choosing and reading what holds memory limits; the limits themselves are in test_faults."""

import asyncio
from pathlib import Path

import pytest

from localfaas.errors import ConfigurationError
from localfaas.memory import MemoryPressure, MemoryUsage, choose_memory_controller
from localfaas.memory.cgroup import CgroupGroup, CgroupMemory
from localfaas.memory.choose import find_parents, find_pressure_parent

V1_MOUNTS = (
    "30 29 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n"
    "31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "32 30 0:28 {root} /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("root", "group", "parent"),
    [
        ("/", "/a/b", "/sys/fs/cgroup/memory/a/b"),
        ("/", "/", "/sys/fs/cgroup/memory"),
        ("/docker/x", "/docker/x", "/sys/fs/cgroup/memory"),
        ("/docker/x", "/docker/x/y", "/sys/fs/cgroup/memory/y"),
    ],
)
def test_find_parents_v1_is_the_own_group_below_the_mount(root: str, group: str, parent: str) -> None:
    own = f"9:name=systemd:/\n4:cpuset,memory:{group}\n1:cpu:/elsewhere\n"

    assert find_parents(own, V1_MOUNTS.format(root=root)) == [(Path(parent), 1)]


def test_find_parents_v2_is_where_memory_is_passed_on(tmp_path: Path) -> None:
    own = tmp_path / "app.slice" / "me.scope"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("\n")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    mounts = f"25 20 0:22 / {tmp_path} rw - cgroup2 cgroup2 rw,nsdelegate\n"

    assert find_parents("0::/app.slice/me.scope\n", mounts) == [(own.parent, 2)]
    (own / "cgroup.subtree_control").write_text("memory\n")
    assert find_parents("0::/app.slice/me.scope\n", mounts) == [(own, 2), (own.parent, 2)]
    assert find_parents("0::/\n", mounts) == []


def test_find_parents_without_a_memory_controller_is_nothing() -> None:
    assert find_parents("0::/\n1:cpu:/\n", V1_MOUNTS.format(root="/").replace("memory", "pids")) == []


@pytest.fixture
def no_groups(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "empty").touch()
    return {"own_groups": tmp_path / "empty", "mounts": tmp_path / "empty"}


def test_choose_auto_without_groups_takes_rlimit_and_says_so(no_groups: dict[str, Path]) -> None:
    controller = choose_memory_controller("auto", "x", **no_groups)

    assert controller.name == "rlimit"
    assert "RLIMIT_DATA" in controller.description


def test_choose_cgroup_without_groups_is_an_error_with_the_remedy(no_groups: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="--memory-enforcement rlimit"):
        choose_memory_controller("cgroup", "x", **no_groups)


def test_cgroup_v2_limit_and_figures_use_its_files(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    controller = CgroupMemory(tmp_path, 2, "id")
    group = controller.create("replica", 1 << 20)
    assert isinstance(group, CgroupGroup)
    files = {
        "memory.current": "5000\n",
        "memory.peak": "9000\n",
        "memory.stat": "anon 4000\nfile 2000\ninactive_file 1500\npgmajfault 7\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
        "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
    }
    for name, text in files.items():
        (group.path / name).write_text(text)

    assert (tmp_path / "localfaas-id" / "cgroup.subtree_control").read_text() == "+memory"
    assert group.path == tmp_path / "localfaas-id" / "replica"
    assert (group.path / "memory.max").read_text() == str(1 << 20)
    assert (group.path / "memory.swap.max").read_text() == "0"
    assert group.usage() == MemoryUsage(
        3500,
        9000,
        oom_kills=2,
        major_faults=7,
        reclaims=3,
        cache_bytes=2000,
        pressure=MemoryPressure(some_seconds=2.5, full_seconds=1.0),
    )
    assert group.join_paths == (str(group.path / "cgroup.procs"),)


def test_find_pressure_parent_is_the_own_group_of_version_2() -> None:
    mounts = V1_MOUNTS.format(root="/") + "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"

    assert find_pressure_parent("4:memory:/a\n0::/b\n", mounts) == Path("/sys/fs/cgroup/unified/b")
    assert find_pressure_parent("4:memory:/a\n", mounts) is None
    assert find_pressure_parent("0::/b\n", V1_MOUNTS.format(root="/")) is None


def test_cgroup_v1_without_pressure_beside_it_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "unified").mkdir()

    controller = CgroupMemory(tmp_path / "memory", 1, "id", tmp_path / "unified")
    group = controller.create("replica", None)

    assert group.join_paths == (str(tmp_path / "memory" / "localfaas-id" / "replica" / "cgroup.procs"),)
    assert list((tmp_path / "unified").iterdir()) == []


def test_group_that_is_gone_has_no_figures_and_can_be_removed(tmp_path: Path) -> None:
    group = CgroupGroup(tmp_path / "gone", 1)

    assert group.usage() == MemoryUsage()
    group.kill()
    asyncio.run(group.remove())
