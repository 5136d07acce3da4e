"""Where a round's time goes: what a peer waits for others is told apart from its own work."""

import threading

import pytest

from peer.errors import ObjectCorrupt, ObjectMissing
from peer.records.phases import PHASES, PhaseClock
from peer.store.retry import Patience

AT_ONCE = Patience(total_seconds=60.0, first_seconds=0.0, longest_seconds=0.0)


class Time:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Awaited:
    """What another peer publishes after some misses; a request takes a second."""

    def __init__(self, time: Time, misses: int) -> None:
        self._time = time
        self._misses = misses

    def __call__(self) -> str:
        self._time.now += 1.0
        if self._misses:
            self._misses -= 1
            raise ObjectMissing("not there yet")
        return "found"


@pytest.fixture
def time() -> Time:
    return Time()


def test_clock_names_every_phase_and_begins_anew(time: Time) -> None:
    clock = PhaseClock(time)
    with clock.phase("compute"):
        time.now += 2.0

    assert clock.take() == dict.fromkeys(PHASES, 0.0) | {"compute": 2.0}
    assert clock.take() == dict.fromkeys(PHASES, 0.0)


def test_time_from_the_first_miss_on_is_waiting_and_no_part_of_the_phase(time: Time) -> None:
    clock = PhaseClock(time)
    with clock.phase("exchange"):
        time.now += 5.0
        found = clock.wait_for(Awaited(time, misses=3), AT_ONCE)

    taken = clock.take()

    assert found == "found"
    assert (taken["exchange"], taken["wait"]) == (6.0, 3.0)


def test_object_that_is_there_was_not_waited_for_however_slow_the_store(time: Time) -> None:
    clock = PhaseClock(time)
    with clock.phase("exchange"):
        clock.wait_for(Awaited(time, misses=0), AT_ONCE)

    taken = clock.take()

    assert (taken["exchange"], taken["wait"]) == (1.0, 0.0)


def test_waits_of_several_threads_count_once(time: Time) -> None:
    clock = PhaseClock(time)
    both_wait = threading.Barrier(3)
    published = threading.Event()

    def wait() -> None:
        is_first = True

        def probe() -> str:
            nonlocal is_first
            if is_first:
                is_first = False
                raise ObjectMissing("not there yet")
            both_wait.wait(timeout=60)
            published.wait(timeout=60)
            return "found"

        clock.wait_for(probe, AT_ONCE)

    with clock.phase("exchange"):
        threads = [threading.Thread(target=wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        both_wait.wait(timeout=60)
        time.now += 4.0
        published.set()
        for thread in threads:
            thread.join(timeout=60)

    assert clock.take()["wait"] == 4.0


def test_wait_that_fails_is_counted_and_ends(time: Time) -> None:
    clock = PhaseClock(time)
    answers = iter([ObjectMissing("not there yet"), ObjectCorrupt("torn")])

    def probe() -> str:
        time.now += 1.0
        raise next(answers)

    with pytest.raises(ObjectCorrupt), clock.phase("exchange"):
        clock.wait_for(probe, AT_ONCE)
    with clock.phase("update"):
        time.now += 1.0

    taken = clock.take()
    assert (taken["exchange"], taken["wait"], taken["update"]) == (1.0, 1.0, 1.0)
