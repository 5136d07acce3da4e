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
from peer.fanout import FanOut, RetryPolicy


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


def test_outages_between_failures_are_each_waited_out_anew() -> None:
    outage, failure = GatewayUnreachable("away"), InvocationFailed("lost")

    results, retries = run([failing([outage, failure, outage, failure])], RetryPolicy(outage_seconds=5.0))

    assert results == [4]
    assert len(retries) == 4
