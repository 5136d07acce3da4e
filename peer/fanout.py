"""Fan-out: a round's invocations, some at a time, each tried again until it has a valid result.

Every attempt has its own number, and so its own result key: the first valid reply is taken, and a late
attempt replaces nothing.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from peer.errors import (
    FunctionBusy,
    GatewayUnreachable,
    OutOfMemory,
    PeerlessError,
    StoreUnreachable,
)
from peer.in_flight import InFlight, OnChange
from peer.store.retry import Patience, retry

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Attempt = Callable[[int], Result]
"""Makes attempt number n of one invocation and returns its checked result, or raises a PeerlessError."""


_BACK_OFF = Patience(total_seconds=math.inf, first_seconds=0.01, longest_seconds=0.5)


@dataclass(frozen=True)
class RetryPolicy:
    """When an invocation is given up.

    An outage (gateway, store) is waited out for `outage_seconds`. A failed attempt is repeated up to
    `max_failures` times, one that ran out of memory up to `max_out_of_memory` times (infinity where a run
    adapts, and says itself when nothing fits). Busy replies are no errors.
    """

    outage_seconds: float = 120.0
    max_failures: int = 5
    max_out_of_memory: float = 2


def _ignored(_before: int, _after: int, _reason: str) -> None:
    """Do nothing about another number of invocations at once."""


class FanOut:
    """Runs attempts in threads, at most `in_flight` at a time, and fewer while replies are busy.

    Args:
        in_flight: how many invocations run at once, >= 1.
        policy: when to give up.
        on_retry: told, in the thread of the invocation, of each error that another attempt follows.
        on_change: told, likewise, when fewer invocations run at once, or more again.
    """

    def __init__(
        self,
        in_flight: int,
        policy: RetryPolicy,
        on_retry: Callable[[PeerlessError], None],
        on_change: OnChange = _ignored,
    ) -> None:
        self._policy = policy
        self._on_retry = on_retry
        self._in_flight = InFlight(in_flight, on_change)
        self._pool = ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="invocation")

    def run(self, invocations: Sequence[Attempt[Result]]) -> Iterator[Result]:
        """Yield the results in the order of `invocations`, each as soon as it and those before it are there.

        Raises:
            PeerlessError: of the first invocation (in order) that was given up; those not begun are
                cancelled.
        """
        futures = [self._pool.submit(self._until_valid, attempt) for attempt in invocations]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Wait for running attempts and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _until_valid(self, attempt: Attempt[Result]) -> Result:
        budget = _Budget(self._policy)
        number = 0

        def next_attempt() -> Result:
            nonlocal number
            number += 1
            with self._in_flight.one():
                result = attempt(number - 1)
            self._in_flight.replied()
            return result

        def on_retry(error: PeerlessError) -> None:
            if isinstance(error, FunctionBusy):
                self._in_flight.busy()
            else:
                log.warning("attempt %d: %s", number - 1, error)
            self._on_retry(error)

        return retry(next_attempt, _BACK_OFF, is_retryable=budget.allows, on_retry=on_retry)


class _Budget:
    """What one invocation may still spend on attempts that ended this way or that."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._out_of_memory = 0
        self._outage_began: float | None = None

    def allows(self, error: PeerlessError) -> bool:
        """Return whether another attempt follows; counts this one."""
        if not error.retryable:
            return False
        if isinstance(error, GatewayUnreachable | StoreUnreachable):
            self._outage_began = self._outage_began or time.monotonic()
            return time.monotonic() - self._outage_began < self._policy.outage_seconds
        self._outage_began = None
        if isinstance(error, FunctionBusy):
            return True
        if isinstance(error, OutOfMemory):
            self._out_of_memory += 1
            return self._out_of_memory <= self._policy.max_out_of_memory
        self._failures += 1
        return self._failures <= self._policy.max_failures
