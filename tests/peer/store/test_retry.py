from collections.abc import Callable

import pytest

from peer.errors import ObjectMissing, StopRequested, StoreUnreachable
from peer.store.retry import Patience, poll, retry


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def failing(num_times: int, error: Exception) -> Callable[[], str]:
    left = [num_times]

    def action() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "done"

    return action


def test_retry_after_retryable_errors_returns_result() -> None:
    time = FakeTime()
    seen: list[Exception] = []
    error = StoreUnreachable("no connection")

    result = retry(
        failing(3, error),
        Patience(60.0),
        clock=time.clock,
        sleep=time.sleep,
        random=lambda: 1.0,
        on_retry=seen.append,
    )

    assert result == "done"
    assert time.waits == [0.005, 0.01, 0.02]
    assert seen == [error] * 3


def test_retry_with_jitter_waits_between_half_and_all() -> None:
    time = FakeTime()

    action = failing(2, StoreUnreachable("no connection"))
    retry(action, Patience(60.0), clock=time.clock, sleep=time.sleep, random=lambda: 0.0)

    assert time.waits == [0.0025, 0.005]


def test_retry_out_of_patience_says_how_long_it_waited() -> None:
    time = FakeTime()
    error = StoreUnreachable("no connection")

    with pytest.raises(StoreUnreachable, match=r"no connection \(gave up after \d+ tries in 10.0 s\)"):
        retry(failing(1000, error), Patience(10.0), clock=time.clock, sleep=time.sleep)

    assert time.now == pytest.approx(10.0)
    assert max(time.waits) <= 1.0


def test_retry_without_patience_tries_once() -> None:
    time = FakeTime()

    with pytest.raises(StoreUnreachable, match="^no connection$"):
        retry(failing(1, StoreUnreachable("no connection")), Patience(0.0), sleep=time.sleep)

    assert time.waits == []


@pytest.mark.parametrize("error", [ObjectMissing("gone"), ValueError("a bug"), StopRequested("stop", 15)])
def test_retry_after_other_errors_raises_at_once(error: Exception) -> None:
    time = FakeTime()

    with pytest.raises(type(error)) as caught:
        retry(failing(1, error), Patience(10.0), clock=time.clock, sleep=time.sleep)

    assert caught.value is error
    assert time.waits == []


def test_retry_that_a_signal_ends_does_not_say_it_gave_up() -> None:
    time = FakeTime()
    errors = iter([StoreUnreachable("no connection"), StopRequested("stopped by SIGINT", 2)])

    def action() -> None:
        raise next(errors)

    with pytest.raises(StopRequested, match="^stopped by SIGINT$"):
        retry(action, Patience(10.0), clock=time.clock, sleep=time.sleep)


def test_poll_returns_first_result() -> None:
    time = FakeTime()
    results = iter([None, None, 0])

    result = poll(lambda: next(results), Patience(10.0), clock=time.clock, sleep=time.sleep)

    assert result == 0
    assert len(time.waits) == 2


def test_poll_out_of_patience_returns_none() -> None:
    time = FakeTime()

    result = poll(lambda: None, Patience(3.0), clock=time.clock, sleep=time.sleep)

    assert result is None
    assert time.now == pytest.approx(3.0)


def test_poll_with_errors_until_the_end_raises_the_last() -> None:
    time = FakeTime()

    with pytest.raises(StoreUnreachable, match=r"gave up after .* in 3.0 s"):
        poll(failing(1000, StoreUnreachable("x")), Patience(3.0), clock=time.clock, sleep=time.sleep)
