"""Requests made ahead of their turn, some at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Fetched = TypeVar("Fetched")

AT_ONCE = 4
"""Transfers at once: hides the latency of a remote store; more adds nothing once the network is full."""


def ahead(fetches: Iterable[Callable[[], Fetched]]) -> Iterator[Fetched]:
    """Yield what `fetches` return, in their order, a few of them begun ahead of the one that is yielded.

    `fetches` is taken from in the caller's thread, as there is room; what it raises, and what they raise,
    comes through.
    """
    with ThreadPoolExecutor(AT_ONCE) as threads:
        begun: deque[Future[Fetched]] = deque()
        for fetch in fetches:
            begun.append(threads.submit(fetch))
            if len(begun) == AT_ONCE:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
