"""What is kept of rounds, and added up."""

import pytest

from peer.rounds import FunctionMemory

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
