"""How many processes a replica of the process runtime may have."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker_images import control_groups
from parts import missing

from localfaas.config import StatePaths
from localfaas.memory.cgroup import CgroupGroup
from localfaas.memory.rlimit import RlimitMemory
from localfaas.process_limit import (
    MAX_PROCESSES,
    SeparateProcessLimiter,
    UnifiedProcessLimiter,
    choose_process_limiter,
)

# Its children leave the session, so that no signal to the replica's process group finds them.
BOMB = """
import os, signal

def handle(event, context):
    if "exit" in event.query:
        os._exit(1)
    children = 0
    try:
        while children < int(event.query["number"]):
            if os.fork() == 0:
                os.setsid()
                signal.pause()
            children += 1
    except OSError as error:
        return {"body": {"children": children, "errno": error.errno}}
    return {"body": {"children": children, "errno": 0}}
"""


def layout(tmp_path: Path, line: str, mount: str) -> dict[str, Path]:
    (tmp_path / "groups").write_text(line)
    (tmp_path / "mounts").write_text(mount)
    return {"own_groups": tmp_path / "groups", "mounts": tmp_path / "mounts"}


def test_machine_without_a_pids_controller_has_no_limit(tmp_path: Path) -> None:
    files = layout(tmp_path, "4:memory:/\n", "1 2 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")

    assert choose_process_limiter(RlimitMemory(), "x", **files) is None


def test_directory_that_takes_no_limit_is_not_used(tmp_path: Path) -> None:
    files = layout(tmp_path, "1:pids:/\n", f"1 2 0:3 / {tmp_path} rw - cgroup cgroup rw,pids\n")

    assert choose_process_limiter(RlimitMemory(), "x", **files) is None
    assert not (tmp_path / "localfaas-x").exists()


def test_version_2_writes_its_limit_into_the_memory_group(tmp_path: Path) -> None:
    limit = UnifiedProcessLimiter().create("fn-1", CgroupGroup(tmp_path, 2))

    assert (tmp_path / "pids.max").read_text() == str(MAX_PROCESSES)
    assert limit.join_paths == ()


def test_group_that_is_killed_has_no_more_children(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "pids.max").write_text("1024")
    (tmp_path / "cgroup.procs").write_text(f"{process.pid}\n")

    CgroupGroup(tmp_path, 2).kill()

    assert process.wait(30) == -9
    assert (tmp_path / "pids.max").read_text() == "0"


def test_separate_groups_are_swept(tmp_path: Path) -> None:
    (tmp_path / "localfaas-x").mkdir()
    (tmp_path / "localfaas-x" / "pids.max").write_text("max")
    limiter = SeparateProcessLimiter(tmp_path, "x")
    (tmp_path / "localfaas-x" / "fn-1").mkdir()

    limiter.sweep()

    assert not (tmp_path / "localfaas-x" / "fn-1").exists()


@pytest.fixture
def bombed(make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway with a function that has as many children as a replica may have, and another function."""
    project.add("bomb", BOMB)
    project.add("probe")
    gateway = make_gateway()
    gateway.deploy()
    if f"a replica has at most {MAX_PROCESSES} processes" not in gateway.errors:
        missing("no control group can limit the number of processes here")
    reply = gateway.call("bomb", number=2 * MAX_PROCESSES).json()
    assert reply["errno"] == errno.EAGAIN
    assert MAX_PROCESSES // 2 < reply["children"] < MAX_PROCESSES
    return gateway


def groups_of(gateway: Any) -> list[str]:
    return [
        place
        for place in control_groups(f"localfaas-{StatePaths(gateway.state_dir).identity}")
        if "bomb-" in place
    ]


def members(places: list[str]) -> set[int]:
    return {int(pid) for place in places for pid in (Path(place) / "cgroup.procs").read_text().split()}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["removal", "exit", "kill"])
def test_children_end_with_their_replica_and_hinder_no_other(
    bombed: Any, ending: str, running: Callable[[int], bool]
) -> None:
    groups = groups_of(bombed)
    children = members(groups)
    assert len(children) > MAX_PROCESSES // 2
    assert bombed.call("probe").status_code == 200

    if ending == "removal":
        bombed.system("DELETE", "functions", json={"functionName": "bomb"})
    elif ending == "exit":
        assert bombed.call("bomb", exit=1).status_code == 502
    else:
        bombed.kill()
        bombed.start()

    bombed.until(lambda: not any(map(running, children)), "its children have ended")
    bombed.until(lambda: not set(groups) & set(groups_of(bombed)), "its control groups are gone")
    bombed.until(lambda: bombed.call("probe").status_code == 200, "others go on")
