"""Functions that take what they can: processes of their own, the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parts import memory_cgroup

FLOOD = """
import os

def handle(event, context):
    line = b"x" * 4095 + b"\\n"
    for _ in range(8_000):
        os.write(1, line)
    return "flooded"
"""
MAX_LOG_BYTES = 20 << 20


def test_child_in_a_session_of_its_own_ends_with_its_replica(
    make_gateway: Callable[..., Any], project: Any, running: Callable[[int], bool], until: Callable[..., Any]
) -> None:
    memory_cgroup()
    project.add("probe")
    gateway = make_gateway()
    gateway.deploy()
    child = gateway.call("probe", fork=1, session=1).json()["child"]
    assert running(child)

    gateway.call("probe", exit=1)

    until(lambda: not running(child), "the child has ended")


@pytest.mark.slow
def test_log_that_is_flooded_stays_small_and_hinders_no_other(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    project.add("flood", FLOOD)
    project.add("probe")
    gateway = make_gateway()
    gateway.deploy()

    assert gateway.call("flood").text == "flooded"

    assert gateway.call("probe").status_code == 200
    logs: Path = gateway.state_dir / "logs"
    assert 0 < sum(path.stat().st_size for path in logs.glob("flood.log*")) < MAX_LOG_BYTES
    assert len(gateway.system("GET", "logs?name=flood").content) < MAX_LOG_BYTES
    assert "xxx" not in gateway.system("GET", "logs?name=probe").text
