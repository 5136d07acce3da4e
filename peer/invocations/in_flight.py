"""How many of a peer's invocations run at once: fewer while replicas are busy, more again afterwards."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BUSY_REPLIES = 4
"""Busy replies without a valid one between them, after which one invocation less runs at once."""

CALM_REPLIES = 32
"""Valid replies without a busy one between them, after which one more does."""

OnChange = Callable[[int, int, str], None]
"""Told of the number before, the number after, and why it changed."""


class InFlight:
    """A gate for attempts, which never changes a result: only how many wait. Safe between threads.

    Args:
        most: how many may run at once, >= 1.
        on_change: told of each change, outside of all locks.
    """

    def __init__(self, most: int, on_change: OnChange) -> None:
        self._most = most
        self._on_change = on_change
        self._allowed = most
        self._running = 0
        self._num_busy = 0
        self._num_calm = 0
        self._has_room = threading.Condition()

    @property
    def allowed(self) -> int:
        """How many may run at once now."""
        return self._allowed

    @property
    def is_busy(self) -> bool:
        """Whether the last reply was busy, or fewer run at once for such replies than may."""
        return self._num_busy > 0 or self._allowed < self._most

    @contextmanager
    def one(self) -> Iterator[Callable[[], None]]:
        """Run the block once fewer than the allowed number of others run.

        What it is given makes room for another one before the block ends.
        """
        with self._has_room:
            self._has_room.wait_for(lambda: self._running < self._allowed)
            self._running += 1
        is_left = False

        def leave() -> None:
            nonlocal is_left
            with self._has_room:
                self._running -= not is_left
                is_left = True
                self._has_room.notify_all()

        try:
            yield leave
        finally:
            leave()

    def busy(self) -> None:
        """Count a busy reply."""
        with self._has_room:
            self._num_calm, self._num_busy = 0, self._num_busy + 1
            if self._num_busy < BUSY_REPLIES or self._allowed == 1:
                return
            before = self._change(-1)
        self._on_change(before, before - 1, f"{BUSY_REPLIES} busy replies one after the other")

    def replied(self) -> None:
        """Count a valid reply."""
        with self._has_room:
            self._num_busy, self._num_calm = 0, self._num_calm + 1
            if self._num_calm < CALM_REPLIES or self._allowed == self._most:
                return
            before = self._change(+1)
        self._on_change(before, before + 1, f"{CALM_REPLIES} replies, none of them busy")

    def _change(self, by: int) -> int:
        before = self._allowed
        self._allowed = before + by
        self._num_busy = self._num_calm = 0
        self._has_room.notify_all()
        return before
