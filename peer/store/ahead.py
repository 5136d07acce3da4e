"""Requests made ahead of their turn, some at a time."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 4
"""Transfers at once: hides the latency of a remote store; more adds nothing once the network is full."""


class Transfers:
    """Does some things at once, by threads that are kept: starting one takes as long as a small request.

    Nothing that it does may wait for another thing that it does. Threads begin with the first thing, so that
    a process may be forked before, and end when this object does.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="transfer")

    def ahead(self, fetches: Iterable[Callable[[], Result]]) -> Iterator[Result]:
        """Yield what `fetches` return, in their order, a few of them begun ahead of the one that is yielded.

        `fetches` is taken from in the caller's thread, as there is room; what it raises, and what they raise,
        comes through, once what has begun is over.
        """
        begun: deque[Future[Result]] = deque()
        try:
            for fetch in fetches:
                begun.append(self._threads.submit(fetch))
                if len(begun) == AT_ONCE:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            _end(begun)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return what `function` returns for each of `items`; what it raises comes through as by `ahead`."""
        begun = [self._threads.submit(function, item) for item in items]
        try:
            return [future.result() for future in begun]
        finally:
            _end(begun)


def _end(begun: Collection[Future[Result]]) -> None:
    """Return once nothing of this is at work any more; what has not begun does not begin."""
    for future in begun:
        future.cancel()
    wait(begun)
