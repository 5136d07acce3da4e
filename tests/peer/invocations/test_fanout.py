import math
import threading
from collections.abc import Callable

import pytest

from peer.errors import (
    FunctionBusy,
    FunctionRefused,
    GatewayUnreachable,
    InvocationFailed,
    OutOfMemory,
    PeerlessError,
    UrlExpired,
)
from peer.invocations.abandonment import ended_by
from peer.invocations.fanout import FanOut, Hedging, RetryPolicy
from peer.invocations.hedging import HedgePolicy
from peer.invocations.invocation import Stored


def failing(errors: list[PeerlessError]) -> Callable[[int], int]:
    """Return an attempt that raises these errors in turn, and then returns its own number."""

    def attempt(number: int) -> int:
        if number < len(errors):
            raise errors[number]
        return number

    return attempt


def run(attempts: list[Callable[[int], int]], policy: RetryPolicy) -> tuple[list[int], list[str]]:
    retries: list[str] = []
    fan_out = FanOut(2, policy, lambda error: retries.append(type(error).__name__))
    try:
        return list(fan_out.run(attempts)), retries
    finally:
        fan_out.close()


def test_results_come_in_order_whatever_ends_first() -> None:
    second_ended = threading.Event()

    def first(_number: int) -> str:
        assert second_ended.wait(10)
        return "first"

    def second(_number: int) -> str:
        second_ended.set()
        return "second"

    fan_out = FanOut(2, RetryPolicy(), lambda _error: None)

    assert list(fan_out.run([first, second])) == ["first", "second"]
    fan_out.close()


def test_no_more_than_in_flight_run_at_once() -> None:
    lock = threading.Lock()
    running, most = 0, 0

    def attempt(_number: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    fan_out = FanOut(3, RetryPolicy(), lambda _error: None)
    list(fan_out.run([attempt] * 12))
    fan_out.close()

    assert most == 3


@pytest.mark.parametrize(
    "error", [InvocationFailed("x"), UrlExpired("x"), GatewayUnreachable("x"), OutOfMemory("x")]
)
def test_retryable_error_is_tried_again_under_the_next_number(error: PeerlessError) -> None:
    results, retries = run([failing([error, error])], RetryPolicy())

    assert results == [2]
    assert retries == [type(error).__name__] * 2


def test_busy_replies_are_no_failures() -> None:
    results, _ = run([failing([FunctionBusy("busy")] * 8)], RetryPolicy(max_failures=0, max_out_of_memory=0))

    assert results == [8]


@pytest.mark.parametrize(
    ("errors", "policy"),
    [
        ([FunctionRefused("no")], RetryPolicy()),
        ([InvocationFailed("x")] * 3, RetryPolicy(max_failures=2)),
        ([OutOfMemory("x")] * 3, RetryPolicy(max_out_of_memory=2)),
        ([GatewayUnreachable("x")], RetryPolicy(outage_seconds=0.0)),
    ],
    ids=["refused", "failures", "memory", "outage"],
)
def test_invocation_that_is_given_up_raises_its_last_error(
    errors: list[PeerlessError], policy: RetryPolicy
) -> None:
    with pytest.raises(type(errors[-1])):
        run([failing(errors)], policy)


def test_memory_that_ran_out_begins_the_count_of_failures_anew() -> None:
    failure, oom = InvocationFailed("lost"), OutOfMemory("killed")

    results, _ = run([failing([failure, oom] * 4)], RetryPolicy(max_failures=1, max_out_of_memory=math.inf))

    assert results == [8]


def test_outages_between_failures_are_each_waited_out_anew() -> None:
    outage, failure = GatewayUnreachable("away"), InvocationFailed("lost")

    results, retries = run([failing([outage, failure, outage, failure])], RetryPolicy(outage_seconds=5.0))

    assert results == [4]
    assert len(retries) == 4


EAGER = HedgePolicy(least_seconds=0.05, least_observed=4)
WAIT_SECONDS = 30.0


class Hung:
    """An attempt that hangs at its first number, until it is abandoned; the others do as they are told."""

    def __init__(self, others: Callable[[int], int] = lambda number: number) -> None:
        self.began, self.ended = threading.Event(), threading.Event()
        self._woken = threading.Event()
        self._others = others

    def __call__(self, number: int) -> int:
        if number:
            return self._others(number)
        self.began.set()
        try:
            with ended_by(self._woken.set):
                assert self._woken.wait(WAIT_SECONDS)
                raise GatewayUnreachable("the connection was cut")
        finally:
            self.ended.set()


class Hedges:
    """A fan-out that hedges, and has observed how long attempts take; counts what it hedges."""

    def __init__(self, in_flight: int) -> None:
        self.begun, self.won = 0, 0
        hedging = Hedging(EAGER, self._on_hedge, self._on_won)
        self.fan_out = FanOut(in_flight, RetryPolicy(max_failures=1), lambda _error: None, hedging=hedging)
        list(self.fan_out.run([failing([])] * 8, "calls"))

    def _on_hedge(self) -> None:
        self.begun += 1

    def _on_won(self) -> None:
        self.won += 1


@pytest.mark.parametrize("in_flight", [1, 2])
def test_hung_attempt_is_hedged_under_the_next_number_and_abandoned(in_flight: int) -> None:
    hedges, hung = Hedges(in_flight), Hung()

    results = list(hedges.fan_out.run([hung, failing([]), failing([])], "calls"))

    assert results == [1, 0, 0]
    assert (hedges.begun, hedges.won) == (1, 1)
    assert hung.ended.wait(WAIT_SECONDS)
    hedges.fan_out.close()


def test_attempts_of_a_kind_that_was_not_observed_are_not_hedged() -> None:
    hedges = Hedges(1)
    slow = threading.Event()

    def attempt(number: int) -> int:
        slow.wait(0.3)
        return number

    assert list(hedges.fan_out.run([attempt], "others")) == [0]
    assert hedges.begun == 0
    hedges.fan_out.close()


def test_hedge_that_fails_leaves_the_result_to_the_first_attempt() -> None:
    hedges, tried_again = Hedges(1), threading.Event()

    def attempt(number: int) -> int:
        if number:
            tried_again.set()
            raise FunctionRefused("no")
        assert tried_again.wait(WAIT_SECONDS)
        return number

    assert list(hedges.fan_out.run([attempt], "calls")) == [0]
    assert (hedges.begun, hedges.won) == (1, 0)
    hedges.fan_out.close()


def test_first_attempt_that_is_given_up_leaves_the_result_to_the_hedge() -> None:
    hedges, may_reply = Hedges(1), threading.Event()

    def attempt(number: int) -> int:
        if number == 0:
            assert hedge_began.wait(WAIT_SECONDS)
            threading.Timer(0.1, may_reply.set).start()
            raise FunctionRefused("no")
        hedge_began.set()
        assert may_reply.wait(WAIT_SECONDS)
        return number

    hedge_began = threading.Event()

    assert list(hedges.fan_out.run([attempt], "calls")) == [1]
    assert (hedges.begun, hedges.won) == (1, 1)
    hedges.fan_out.close()


def test_both_attempts_given_up_raise_the_first_ones_error() -> None:
    hedges, hedge_failed = Hedges(1), threading.Event()

    def attempt(number: int) -> int:
        if number == 0:
            assert hedge_failed.wait(WAIT_SECONDS)
            raise FunctionRefused("of the first")
        hedge_failed.set()
        raise InvocationFailed("of the hedge")

    with pytest.raises(FunctionRefused, match="of the first"):
        list(hedges.fan_out.run([attempt], "calls"))
    hedges.fan_out.close()


def test_no_hedge_begins_while_replies_are_busy() -> None:
    hedges, seen = Hedges(2), threading.Event()

    def busy_until_the_other_replies(number: int) -> int:
        if not seen.is_set():
            raise FunctionBusy("busy")
        return number

    def slow(number: int) -> int:
        threading.Event().wait(0.5)
        seen.set()
        return number

    results = list(hedges.fan_out.run([slow, busy_until_the_other_replies], "calls"))

    assert results[0] == 0
    assert hedges.begun == 0
    hedges.fan_out.close()


def test_run_that_fails_abandons_what_runs_beside_it() -> None:
    hung = Hung()

    def refused(_number: int) -> int:
        assert hung.began.wait(WAIT_SECONDS)
        raise FunctionRefused("no")

    fan_out = FanOut(2, RetryPolicy(), lambda _error: None)
    with pytest.raises(FunctionRefused):
        list(fan_out.run([refused, hung]))
    fan_out.close()

    assert hung.ended.is_set()


def test_next_invocation_begins_while_a_result_is_fetched() -> None:
    second_began = threading.Event()

    def fetch() -> str:
        assert second_began.wait(WAIT_SECONDS)
        return "fetched"

    def second(_number: int) -> str:
        second_began.set()
        return "second"

    fan_out = FanOut(1, RetryPolicy(), lambda _error: None)

    assert list(fan_out.run([lambda _: Stored(fetch), second])) == ["fetched", "second"]
    fan_out.close()


def test_without_overlap_the_next_invocation_waits_for_the_result() -> None:
    order: list[str] = []

    def fetch() -> str:
        threading.Event().wait(0.1)
        order.append("fetched")
        return "first"

    def second(_number: int) -> str:
        order.append("second began")
        return "second"

    fan_out = FanOut(1, RetryPolicy(), lambda _error: None, is_overlapping=False)

    assert list(fan_out.run([lambda _: Stored(fetch), second])) == ["first", "second"]
    assert order == ["fetched", "second began"]
    fan_out.close()


def test_result_that_cannot_be_fetched_is_computed_again() -> None:
    def fetch() -> int:
        raise InvocationFailed("its result is not stored")

    def attempt(number: int) -> int | Stored[int]:
        return number or Stored(fetch)

    fan_out = FanOut(1, RetryPolicy(), lambda _error: None)

    assert list(fan_out.run([attempt])) == [1]
    fan_out.close()
