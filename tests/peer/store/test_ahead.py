"""Transfers that are made at once: their order, their number, their threads, and how they end."""

import threading
from collections.abc import Callable, Iterator

import pytest

from peer.store.ahead import AT_ONCE, Transfers

_LONGEST_SECONDS = 30.0


class Work:
    """Counts what is at work."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = self.done = 0
        self.threads: set[int] = set()

    def do(self, number: int, meet: Callable[[], object] = lambda: None) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.get_ident())
        try:
            meet()
            return number
        finally:
            with self.lock:
                self.now -= 1
                self.done += 1


@pytest.fixture
def work() -> Work:
    return Work()


def test_results_come_in_order_some_made_at_once(work: Work) -> None:
    barrier = threading.Barrier(AT_ONCE)
    fetches = [lambda n=n: work.do(n, lambda: barrier.wait(_LONGEST_SECONDS)) for n in range(3 * AT_ONCE)]

    assert list(Transfers().ahead(fetches)) == list(range(3 * AT_ONCE))
    assert work.most == AT_ONCE


def test_map_does_the_same(work: Work) -> None:
    barrier = threading.Barrier(AT_ONCE)

    found = Transfers().map(lambda n: work.do(n, lambda: barrier.wait(_LONGEST_SECONDS)), range(3 * AT_ONCE))

    assert found == list(range(3 * AT_ONCE))
    assert work.most == AT_ONCE


def test_threads_are_kept(work: Work) -> None:
    transfers = Transfers()

    for _ in range(10):
        transfers.map(work.do, range(10))

    assert len(work.threads) <= AT_ONCE and work.done == 100


def test_fetches_are_taken_from_as_there_is_room() -> None:
    taken: list[int] = []

    def fetches() -> Iterator[Callable[[], int]]:
        for number in range(20):
            taken.append(number)
            yield lambda number=number: number

    results = Transfers().ahead(fetches())

    assert next(results) == 0
    assert taken == list(range(AT_ONCE))


@pytest.mark.parametrize("is_mapped", [True, False])
def test_error_comes_through_once_what_has_begun_is_over(work: Work, is_mapped: bool) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        has_begun.set()
        may_end.wait(_LONGEST_SECONDS)

    def fails() -> None:
        assert has_begun.wait(_LONGEST_SECONDS)
        threading.Timer(0.05, may_end.set).start()
        raise ValueError("the first one")

    transfers, meets = Transfers(), [fails, slow, slow]
    with pytest.raises(ValueError, match="the first one"):
        if is_mapped:
            transfers.map(lambda meet: work.do(0, meet), meets)
        else:
            list(transfers.ahead([lambda meet=meet: work.do(0, meet) for meet in meets]))

    assert work.now == 0
