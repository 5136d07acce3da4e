"""What is kept of rounds, and added up."""

import pytest

from peer.messages import Usage
from peer.records.rounds import FunctionMemory, Work

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("is_reversed", [False, True])
def test_function_memory_of_two_limits_is_of_the_fuller_replica(is_reversed: bool) -> None:
    wide = FunctionMemory(invocations=3, limit_bytes=1024 * MEBIBYTE, working_set_bytes=252 * MEBIBYTE)
    narrow = FunctionMemory(invocations=2, limit_bytes=140 * MEBIBYTE, working_set_bytes=130 * MEBIBYTE)

    both = narrow + wide if is_reversed else wide + narrow

    assert (both.limit_bytes, both.working_set_bytes) == (140 * MEBIBYTE, 130 * MEBIBYTE)
    assert both.invocations == 5


def test_function_memory_of_a_lost_replica_keeps_the_limit() -> None:
    known = FunctionMemory(invocations=1, limit_bytes=64 * MEBIBYTE)

    both = known + FunctionMemory(out_of_memory=1)

    assert (both.limit_bytes, both.out_of_memory) == (64 * MEBIBYTE, 1)


def usage_of(seconds: float, cpu_seconds: float) -> Usage:
    return Usage(
        phase_seconds={"fetch": seconds / 4, "compute": 3 * seconds / 4},
        peak_rss_bytes=0,
        cgroup_usage_bytes=0,
        cgroup_limit_bytes=0,
        is_cold_start=False,
        replica="one",
        cpu_seconds=cpu_seconds,
    )


def test_work_keeps_each_invocations_seconds_and_sums_their_cpu() -> None:
    work = Work()

    for seconds, cpu_seconds in ((1.0, 0.5), (2.0, 1.25)):
        work.add_reply("gradient", usage_of(seconds, cpu_seconds))
    work.add_reply("evaluate", usage_of(4.0, 3.0))

    taken = work.take()
    assert taken["invocation_seconds"] == {"gradient": [1.0, 2.0], "evaluate": [4.0]}
    assert taken["function_cpu_seconds"] == {"gradient": 1.75, "evaluate": 3.0}
    assert work.take()["invocation_seconds"] == {}
