import threading

import pytest

from peer.errors import FunctionBusy, PeerlessError
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.in_flight import BUSY_REPLIES, CALM_REPLIES, InFlight

WAIT_SECONDS = 30.0


class Told:
    def __init__(self) -> None:
        self.changes: list[tuple[int, int]] = []

    def __call__(self, before: int, after: int, reason: str) -> None:
        assert reason
        self.changes.append((before, after))


def test_busy_replies_one_after_the_other_lower_the_number_down_to_one() -> None:
    told = Told()
    gate = InFlight(3, told)

    for _ in range(4 * BUSY_REPLIES):
        gate.busy()

    assert told.changes == [(3, 2), (2, 1)]
    assert gate.allowed == 1


def test_busy_replies_between_valid_ones_change_nothing() -> None:
    told = Told()
    gate = InFlight(3, told)

    for _ in range(4):
        for _ in range(BUSY_REPLIES - 1):
            gate.busy()
        gate.replied()

    assert told.changes == []


def test_valid_replies_raise_the_number_up_to_what_it_was() -> None:
    told = Told()
    gate = InFlight(2, told)
    for _ in range(BUSY_REPLIES):
        gate.busy()

    for _ in range(3 * CALM_REPLIES):
        gate.replied()

    assert told.changes == [(2, 1), (1, 2)]


def test_gate_lets_no_more_than_the_allowed_number_through() -> None:
    gate = InFlight(2, Told())
    for _ in range(BUSY_REPLIES):
        gate.busy()
    has_entered, may_leave, second_entered = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with gate.one():
            has_entered.set()
            assert may_leave.wait(WAIT_SECONDS)

    def second() -> None:
        with gate.one():
            second_entered.set()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert has_entered.wait(WAIT_SECONDS)
    threads[1].start()

    assert not second_entered.wait(0.05)
    may_leave.set()
    assert second_entered.wait(WAIT_SECONDS)
    for thread in threads:
        thread.join(WAIT_SECONDS)


@pytest.mark.parametrize("width", [1, 3])
def test_fan_out_amid_busy_replies_gives_the_same_results_with_fewer_at_once(width: int) -> None:
    """The gate in its place: a function that is busy for a while."""
    lock, told, num_refused = threading.Lock(), Told(), 0
    retried: list[PeerlessError] = []

    def attempt_of(index: int):
        def attempt(_number: int) -> int:
            nonlocal num_refused
            with lock:
                if num_refused < 3 * BUSY_REPLIES:
                    num_refused += 1
                    raise FunctionBusy("busy")
            return index

        return attempt

    fan_out = FanOut(width, RetryPolicy(max_failures=0), retried.append, told)
    results = list(fan_out.run([attempt_of(index) for index in range(2 * CALM_REPLIES)]))
    fan_out.close()

    assert results == list(range(2 * CALM_REPLIES))
    assert len(retried) == 3 * BUSY_REPLIES
    lowered = [change for change in told.changes if change[0] > change[1]]
    assert lowered == ([(3, 2), (2, 1)] if width == 3 else [])
