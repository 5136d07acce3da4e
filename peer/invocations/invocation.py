"""One invocation of a fan-out: its attempts, perhaps two at once, and the one outcome that they come to."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from peer.invocations.abandonment import Abandoned, Abandonment

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stored(Generic[Result]):
    """A result that is in the store: the replica is free for another invocation while it is fetched."""

    fetch: Callable[[], Result]


Attempt = Callable[[int], Result | Stored[Result]]
"""Makes attempt number n of one invocation: its checked result, or what fetches that; PeerlessErrors."""


class Invocation(Generic[Result]):
    """Takes the first result, and abandons the attempts that are still under way then. Safe between threads.

    Args:
        attempt: makes one.
        size: its units of work, >= 1.

    Attributes:
        outcome: the result, or the error with which the invocation was given up.
        num_attempts: made so far; the number of the next.
        running_since: when its present first attempt began, by `time.monotonic`; None if none is under way.
        has_begun: whether there was one.
        is_hedged: whether it had a second attempt.
    """

    def __init__(self, attempt: Attempt[Result], size: int) -> None:
        self._attempt = attempt
        self.size = size
        self.outcome: Future[Result] = Future()
        self.num_attempts = 0
        self.running_since: float | None = None
        self.has_begun = False
        self.is_hedged = False
        self._lock = threading.Lock()
        self._under_way: set[Abandonment] = set()
        self._is_over = False
        self._given_up: BaseException | None = None

    @contextmanager
    def first(self) -> Iterator[None]:
        """Count what the block attempts as the first attempt, beside which a hedge may begin."""
        self.has_begun, self.running_since = True, time.monotonic()
        try:
            yield
        finally:
            self.running_since = None

    def attempt(self, on_reply: Callable[[], None]) -> bool:
        """Make one attempt; return whether its result was the first, which has become the outcome.

        Args:
            on_reply: told that the replica is free again, if the result is still to be fetched.

        Raises:
            Abandoned: another attempt was faster, or nobody waits for this invocation any more.
            PeerlessError: the attempt has no result; the outcome is open, unless the invocation had been
                given up but for this attempt.
        """
        abandonment = Abandonment()
        with self._lock:
            if self._is_over:
                raise Abandoned("nobody waits for this invocation any more")
            number, self.num_attempts = self.num_attempts, self.num_attempts + 1
            self._under_way.add(abandonment)
        try:
            with abandonment:
                found = self._attempt(number)
                if isinstance(found, Stored):
                    on_reply()
                    result = found.fetch()
                else:
                    result = found
            return self._take(result)
        finally:
            with self._lock:
                self._under_way.discard(abandonment)
            self._end_if_given_up()

    def replied(self) -> None:
        """Note that the first attempt has its reply: it straggles no more."""
        self.running_since = None

    def give_up(self, error: BaseException) -> None:
        """Make this error the outcome, unless there is one, or an attempt that is under way comes to one."""
        self._given_up = error
        self._end_if_given_up()

    def abandon(self) -> None:
        """Make no more attempts, and end those that are under way."""
        with self._lock:
            self._is_over = True
            under_way = list(self._under_way)
        for each in under_way:
            each.abandon()

    def _take(self, result: Result) -> bool:
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
            self.outcome.set_result(result)
        self.abandon()
        return True

    def _end_if_given_up(self) -> None:
        with self._lock:
            if self._given_up is None or self._is_over or self._under_way:
                return
            self._is_over = True
            self.outcome.set_exception(self._given_up)
