"""When a running invocation gets a second attempt."""

import math

import pytest

from peer.invocations.hedging import HedgePolicy, Load, Observed, Running, to_hedge

POLICY = HedgePolicy(quantile=0.9, margin=2.0, least_seconds=0.5, least_observed=4, most_share=0.1)
IDLE = Load(num_invocations=100, num_hedges=0, num_waiting=0, is_busy=False)
PROMPT, SLOW = Running(1.0, straggles_after=2.0), Running(5.0, straggles_after=2.0)


def observed(*seconds: float, size: int = 1) -> Observed:
    found = Observed(POLICY, most=10)
    for each in seconds:
        found.add(each, size)
    return found


def test_nothing_straggles_before_enough_are_observed() -> None:
    assert observed(1.0, 1.0, 1.0).straggles_after(1) == math.inf
    assert observed(1.0, 1.0, 1.0, 1.0).straggles_after(1) == 2.0


def test_quantile_and_not_the_longest_counts() -> None:
    assert observed(*[1.0] * 9, 60.0).straggles_after(1) == 2.0
    assert observed(*[1.0] * 8, 60.0, 60.0).straggles_after(1) == 120.0


def test_durations_count_by_the_batch() -> None:
    packed = observed(*[8.0] * 4, size=8)

    assert packed.straggles_after(8) == 16.0
    assert packed.straggles_after(3) == 6.0


def test_short_invocations_wait_for_the_least_that_a_hedge_can_save() -> None:
    assert observed(*[0.01] * 4).straggles_after(1) == 0.5


def test_only_the_latest_are_compared() -> None:
    assert observed(*[60.0] * 5, *[1.0] * 10).straggles_after(1) == 2.0


def test_straggler_is_hedged_once() -> None:
    hedged = Running(9.0, straggles_after=2.0, is_hedged=True)

    assert to_hedge([PROMPT, SLOW, hedged], IDLE, POLICY) == 1
    assert to_hedge([PROMPT, hedged], IDLE, POLICY) is None
    assert to_hedge([], IDLE, POLICY) is None


def test_longest_beyond_its_size_is_hedged_first() -> None:
    packed = Running(20.0, straggles_after=16.0)

    assert to_hedge([packed, SLOW], IDLE, POLICY) == 1


@pytest.mark.parametrize(
    ("load", "is_hedged"),
    [
        (Load(100, num_hedges=10, num_waiting=0, is_busy=False), True),
        (Load(100, num_hedges=11, num_waiting=0, is_busy=False), False),
        (Load(1, num_hedges=0, num_waiting=0, is_busy=False), True),
        (Load(1, num_hedges=2, num_waiting=0, is_busy=False), False),
        (Load(100, num_hedges=0, num_waiting=0, is_busy=True), False),
        (Load(100, num_hedges=0, num_waiting=1, is_busy=False), False),
    ],
    ids=["share", "beyond-share", "first", "beyond-first", "busy", "waiting"],
)
def test_hedges_are_bounded(load: Load, is_hedged: bool) -> None:
    assert (to_hedge([PROMPT, SLOW], load, POLICY) is not None) == is_hedged


def test_stragglers_that_hold_every_place_are_hedged_though_others_wait() -> None:
    waiting = Load(100, num_hedges=0, num_waiting=3, is_busy=False)

    assert to_hedge([SLOW], waiting, POLICY) == 0
    assert to_hedge([SLOW, PROMPT], waiting, POLICY) is None
