"""No control group outlives its gateway, in no hierarchy, wherever that one and the next have run."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_images import control_groups
from parts import missing

from localfaas.config import StatePaths
from localfaas.group_record import GroupRecord
from localfaas.memory.cgroup import CgroupGroup
from localfaas.memory.choose import find_groups

LIMITS = {"memory": "200Mi", "cpu": "500m"}


def groups_of(gateway: Any) -> list[str]:
    return control_groups(f"localfaas-{StatePaths(gateway.state_dir).identity}")


@pytest.fixture
def limited(make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway with a function whose replica is in a control group."""
    project.add("fn", limits=LIMITS)
    gateway = make_gateway()
    gateway.deploy()
    if not groups_of(gateway):
        missing("no control group can be made here")
    return gateway


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, ...]]:
    """A prefix of commands that run in groups of their own, beside this process' in every hierarchy."""
    own = find_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    made: list[Path] = []
    try:
        for place in {own[name] for name in ("memory", "cpu") if name in own}:
            made.append(place / f"elsewhere-{os.getpid()}")
            made[-1].mkdir()
    except OSError:
        made.clear()
    if not made:
        missing("no control group of version 1 can be made here")
    joins = "".join(f"echo $$ >{place}/cgroup.procs; " for place in made)
    yield "sh", "-c", f'{joins}exec "$0" "$@"'
    for place in made:
        asyncio.run(CgroupGroup(place, version=1).remove())
        assert not place.exists()


@pytest.mark.slow
def test_groups_go_with_their_function_and_their_gateway(limited: Any) -> None:
    limited.system("DELETE", "functions", json={"functionName": "fn"})
    limited.until(lambda: not [place for place in groups_of(limited) if "fn-" in place], "the function's")

    assert limited.stop() == 0

    assert groups_of(limited) == []


@pytest.mark.slow
def test_groups_of_a_killed_gateway_go_where_the_next_makes_none(limited: Any) -> None:
    limited.kill()
    assert groups_of(limited)
    limited.options = ("--memory-enforcement", "rlimit")

    limited.start()

    assert not [place for place in groups_of(limited) if "/memory/" in place or "/unified/" in place]
    assert "control groups of an earlier gateway" in limited.errors
    limited.wait_available("fn", 1)
    limited.system("DELETE", "functions", json={"functionName": "fn"})
    assert limited.stop() == 0
    assert groups_of(limited) == []


@pytest.mark.slow
def test_groups_of_a_gateway_killed_elsewhere_go_with_the_next(
    elsewhere: tuple[str, ...],
    make_gateway: Callable[..., Any],
    project: Any,
    running: Callable[[int], bool],
) -> None:
    project.add("fn", limits=LIMITS)
    gateway = make_gateway()
    assert gateway.stop() == 0
    gateway.prefix = elsewhere
    gateway.start()
    gateway.deploy()
    child = gateway.call("fn", fork=1, session=1).json()["child"]
    assert [place for place in groups_of(gateway) if "/elsewhere-" in place]
    gateway.kill()
    gateway.prefix = ()

    gateway.start()

    assert not [place for place in groups_of(gateway) if "/elsewhere-" in place]
    assert not running(child), "what has left its session is found by its group"
    gateway.wait_available("fn", 1)
    assert gateway.stop() == 0
    assert groups_of(gateway) == []


def test_record_of_another_state_directory_is_left_alone(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state")
    paths.create()
    own, others = tmp_path / f"localfaas-{paths.identity}", tmp_path / "localfaas-of-another"
    for place in (own, others):
        (place / "fn-1").mkdir(parents=True)
    record = GroupRecord(paths)
    record.note([own, others])

    assert record.sweep() == 1

    assert (own.exists(), others.exists()) == (False, True)
    assert record.sweep() == 0
