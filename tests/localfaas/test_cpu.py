"""`limits.cpu` of processes, held by control groups."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parts import missing

from localfaas.config import StatePaths
from localfaas.cpu import SeparateCpu, UnifiedCpu, choose_cpu_controller
from localfaas.memory.cgroup import CgroupGroup
from localfaas.memory.rlimit import RlimitMemory

BUSY = """
import time

def handle(event, context):
    before, until = time.process_time(), time.monotonic() + float(event.query["seconds"])
    while time.monotonic() < until:
        pass
    return {"body": {"share": (time.process_time() - before) / float(event.query["seconds"])}}
"""


def layout(tmp_path: Path, line: str, mount: str) -> dict[str, Path]:
    (tmp_path / "groups").write_text(line)
    (tmp_path / "mounts").write_text(mount)
    return {"own_groups": tmp_path / "groups", "mounts": tmp_path / "mounts"}


def test_machine_without_a_cpu_controller_has_no_limit(tmp_path: Path) -> None:
    files = layout(tmp_path, "4:memory:/\n", "1 2 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")

    assert choose_cpu_controller(RlimitMemory(), "x", **files) is None


def test_directory_that_takes_no_quota_is_not_used(tmp_path: Path) -> None:
    files = layout(tmp_path, "1:cpu:/\n", f"1 2 0:3 / {tmp_path} rw - cgroup cgroup rw,cpu\n")

    assert choose_cpu_controller(RlimitMemory(), "x", **files) is None
    assert not (tmp_path / "localfaas-x").exists()


def test_version_2_writes_its_quota_into_the_memory_group(tmp_path: Path) -> None:
    limit = UnifiedCpu().create("fn-1", 0.25, CgroupGroup(tmp_path, 2))

    assert (tmp_path / "cpu.max").read_text() == "25000 100000"
    assert limit.join_paths == ()


@pytest.fixture
def limited(make_gateway: Callable[..., Any], project: Any) -> Any:
    project.add("fn", BUSY, limits={"cpu": "200m"})
    gateway = make_gateway()
    gateway.deploy()
    if "CPU limits are held by the kernel" not in gateway.errors:
        missing("no control group can limit CPU here")
    return gateway


@pytest.mark.slow
def test_replica_gets_its_share_and_no_more(limited: Any) -> None:
    share = limited.call("fn", seconds=3).json()["share"]

    # Twice the limit: periods at the beginning and the end count whole.
    assert share < 0.4
    assert "localfaas.not-honoured" not in limited.status("fn")["annotations"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_groups_go_with_their_gateway(limited: Any, ending: str) -> None:
    identity = StatePaths(limited.state_dir).identity

    def groups() -> list[str]:
        return [path for path, names, _ in os.walk("/sys/fs/cgroup") if f"localfaas-{identity}" in path]

    assert any("fn-" in path for path in groups())
    limited.kill() if ending == "kill" else limited.stop()
    if ending == "kill":
        limited.start()
        limited.wait_available("fn", 1)
        limited.stop()

    assert groups() == []


def test_separate_groups_are_swept(tmp_path: Path) -> None:
    (tmp_path / "localfaas-x").mkdir()
    (tmp_path / "localfaas-x" / "cpu.cfs_quota_us").write_text("-1")
    controller = SeparateCpu(tmp_path, "x")
    (tmp_path / "localfaas-x" / "fn-1").mkdir()

    controller.sweep()

    assert not (tmp_path / "localfaas-x" / "fn-1").exists()
