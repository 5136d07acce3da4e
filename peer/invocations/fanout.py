"""Fan-out: a round's invocations, some at a time, each tried again until it has a valid result.

Every attempt has its own number, and so its own result key: the first valid reply is taken, and a late
attempt replaces nothing. One that takes much longer than the others is hedged: it gets a second attempt
beside the first, and whichever is done first ends the other.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from peer.errors import (
    FunctionBusy,
    GatewayUnreachable,
    OutOfMemory,
    PeerlessError,
    StoreUnreachable,
)
from peer.invocations.hedging import HedgePolicy, Load, Observed, Running, to_hedge
from peer.invocations.in_flight import InFlight, OnChange
from peer.invocations.invocation import Attempt, Invocation
from peer.store.retry import Patience, retry

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_BACK_OFF = Patience(total_seconds=math.inf, first_seconds=0.01, longest_seconds=0.5)
_LOOK_SECONDS = 0.05
"""How often running invocations are looked at while the fan-out waits for a result."""


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


def _ignored(*_: object) -> None:
    """Do nothing about another number of invocations at once, or about a hedge."""


@dataclass(frozen=True)
class Hedging:
    """That stragglers are hedged: when, and who is told.

    `on_hedge` is told of each second attempt that begins, and `on_won` of each that had the first result.
    """

    policy: HedgePolicy = HedgePolicy()
    on_hedge: Callable[[], None] = _ignored
    on_won: Callable[[], None] = _ignored


@dataclass
class _Spent:
    """What hedges are a share of."""

    num_invocations: int = 0
    num_hedges: int = 0
    observed: dict[str, Observed] = field(default_factory=dict)


class FanOut:
    """Runs attempts in threads, at most `in_flight` at a time, and fewer while replies are busy.

    The second attempt of a straggler shares its first one's place: that replica is presumed lost.

    Args:
        in_flight: how many invocations run at once, >= 1.
        policy: when to give up.
        on_retry: told, in the thread of the invocation, of each error that another attempt follows.
        on_change: told, likewise, when fewer invocations run at once, or more again.
        hedging: None for no second attempts.
        is_overlapping: let another invocation begin while the result of one is fetched.
    """

    def __init__(
        self,
        in_flight: int,
        policy: RetryPolicy,
        on_retry: Callable[[PeerlessError], None],
        on_change: OnChange = _ignored,
        hedging: Hedging | None = None,
        *,
        is_overlapping: bool = True,
    ) -> None:
        self._policy = policy
        self._on_retry = on_retry
        self._hedging = hedging
        self._spent = _Spent()
        self._in_flight = InFlight(in_flight, on_change)
        self._is_overlapping = is_overlapping
        # half of them may fetch while the others wait for replies
        num_threads = 2 * in_flight if is_overlapping else in_flight
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="invocation")
        self._hedges = ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="hedge")

    def run(
        self, attempts: Sequence[Attempt[Result]], kind: str = "", sizes: Sequence[int] = ()
    ) -> Iterator[Result]:
        """Yield the results in the order of `attempts`, each as soon as it and those before it are there.

        Args:
            attempts: one an invocation, each made as often as it takes.
            kind: which durations to compare; one of another kind tells nothing of these.
            sizes: units of work of each invocation; 1 each unless told.

        Raises:
            PeerlessError: of the first invocation (in order) that was given up; those not begun are
                cancelled, and those that run are abandoned.
        """
        sizes = sizes or [1] * len(attempts)
        invocations = [Invocation(*each) for each in zip(attempts, sizes, strict=True)]
        self._spent.num_invocations += len(invocations)
        observed = self._observed(kind)
        begun = [self._pool.submit(self._until_valid, each, observed) for each in invocations]
        try:
            for invocation in invocations:
                yield self._result_of(invocation, invocations, observed)
        finally:
            for future, invocation in zip(begun, invocations, strict=True):
                future.cancel()
                invocation.abandon()

    def close(self) -> None:
        """Wait for running attempts and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._hedges.shutdown(cancel_futures=True)

    def _observed(self, kind: str) -> Observed:
        policy = self._hedging.policy if self._hedging else HedgePolicy()
        return self._spent.observed.setdefault(kind, Observed(policy))

    def _result_of(
        self, invocation: Invocation[Result], invocations: Sequence[Invocation[Any]], observed: Observed
    ) -> Result:
        """Return the result once it is there; hedge whichever invocation straggles meanwhile."""
        if self._hedging is not None:
            while not wait([invocation.outcome], timeout=_LOOK_SECONDS).done:
                self._hedge_straggler(self._hedging, invocations, observed)
        return invocation.outcome.result()

    def _hedge_straggler(
        self, hedging: Hedging, invocations: Sequence[Invocation[Any]], observed: Observed
    ) -> None:
        now = time.monotonic()
        under_way = [(each, since) for each in invocations if (since := each.running_since) is not None]
        running = [
            Running(now - since, observed.straggles_after(each.size), each.is_hedged)
            for each, since in under_way
        ]
        load = Load(
            num_invocations=self._spent.num_invocations,
            num_hedges=self._spent.num_hedges,
            num_waiting=sum(not each.has_begun for each in invocations),
            is_busy=self._in_flight.is_busy,
        )
        number = to_hedge(running, load, hedging.policy)
        if number is None:
            return
        self._spent.num_hedges += 1
        straggler, _ = under_way[number]
        straggler.is_hedged = True
        hedging.on_hedge()
        after = running[number].straggles_after
        log.info("an invocation straggles: no reply after %.2f s; it gets a second attempt", after)
        self._hedges.submit(self._hedge, hedging, straggler, observed)

    def _hedge(self, hedging: Hedging, straggler: Invocation[Any], observed: Observed) -> None:
        """Make one attempt beside the first; its errors are the first attempt's to come upon."""
        try:
            if self._timed(straggler, observed):
                hedging.on_won()
        except FunctionBusy:
            self._in_flight.busy()
        except PeerlessError as error:
            log.info("the second attempt of an invocation came to nothing: %s", error)
        except BaseException as error:
            straggler.give_up(error)

    def _until_valid(self, invocation: Invocation[Any], observed: Observed) -> None:
        budget = _Budget(self._policy)

        def next_attempt() -> None:
            with self._in_flight.one() as leave, invocation.first():

                def on_reply() -> None:
                    invocation.replied()
                    if self._is_overlapping:
                        leave()

                self._timed(invocation, observed, on_reply)

        def is_retryable(error: PeerlessError) -> bool:
            return not invocation.outcome.done() and budget.allows(error)

        def on_retry(error: PeerlessError) -> None:
            if isinstance(error, FunctionBusy):
                self._in_flight.busy()
            else:
                log.warning("attempt %d: %s", invocation.num_attempts - 1, error)
            self._on_retry(error)

        try:
            retry(next_attempt, _BACK_OFF, is_retryable=is_retryable, on_retry=on_retry)
        except BaseException as error:
            invocation.give_up(error)

    def _timed(
        self, invocation: Invocation[Any], observed: Observed, on_reply: Callable[[], None] = _ignored
    ) -> bool:
        """Make an attempt; return whether its result was the first. A valid one counts as observed."""
        began = time.monotonic()
        is_first = invocation.attempt(on_reply)
        observed.add(time.monotonic() - began, invocation.size)
        self._in_flight.replied()
        return is_first


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
            # what follows is tried at other sizes, or on another replica
            self._failures = 0
            self._out_of_memory += 1
            return self._out_of_memory <= self._policy.max_out_of_memory
        self._failures += 1
        return self._failures <= self._policy.max_failures
