"""When a running invocation deserves a second attempt: pure decisions over durations.

A hedged request, as in Dean and Barroso, "The Tail at Scale" (CACM 2013): a second attempt of what takes
longer than nearly all others took. Invocations differ in size, so durations count by the unit of work, such
as a batch.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HedgePolicy:
    """What straggles, and how much may be spent on it.

    An invocation straggles once it takes `margin` times as long as the `quantile` of those observed of its
    kind, and `least_seconds`, which keeps the noise of short ones out. Nothing straggles before
    `least_observed` are. Hedges are at most one, and `most_share` of all invocations.
    """

    quantile: float = 0.95
    margin: float = 1.5
    least_seconds: float = 0.5
    least_observed: int = 5
    most_share: float = 0.1


@dataclass(frozen=True)
class Running:
    """An invocation whose first attempt is under way.

    `seconds` since it began, `straggles_after` so many, `is_hedged` if it had its second attempt already.
    """

    seconds: float
    straggles_after: float
    is_hedged: bool = False

    @property
    def is_straggling(self) -> bool:
        """Whether it takes longer than nearly all others took."""
        return self.seconds >= self.straggles_after


@dataclass(frozen=True)
class Load:
    """What a peer's other invocations do: `num_waiting` have not begun, `is_busy` if replies are 429."""

    num_invocations: int
    num_hedges: int
    num_waiting: int
    is_busy: bool


class Observed:
    """The latest durations of one kind of invocations, in seconds a unit of work. Safe between threads."""

    def __init__(self, policy: HedgePolicy, most: int = 64) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque(maxlen=most)

    def add(self, seconds: float, size: int) -> None:
        """Count an attempt that had a valid reply, of `size` units of work."""
        with self._lock:
            self._seconds.append(seconds / size)

    def straggles_after(self, size: int) -> float:
        """Return the seconds after which an invocation of `size` units straggles, infinity for never."""
        policy = self._policy
        with self._lock:
            seconds = sorted(self._seconds)
        if len(seconds) < policy.least_observed:
            return math.inf
        highest = seconds[math.ceil(policy.quantile * len(seconds)) - 1]
        return max(policy.least_seconds, policy.margin * highest * size)


def to_hedge(running: Sequence[Running], load: Load, policy: HedgePolicy) -> int | None:
    """Return which of the running invocations to give a second attempt now, None for none of them.

    None while replies are busy; none beyond the share; and none that would take a replica from an invocation
    that has not begun, unless stragglers hold all that this peer may use.
    """
    if load.is_busy or load.num_hedges >= 1 + policy.most_share * load.num_invocations:
        return None
    if load.num_waiting and not all(each.is_straggling for each in running):
        return None
    candidates = [number for number, each in enumerate(running) if each.is_straggling and not each.is_hedged]
    return max(
        candidates, key=lambda number: running[number].seconds / running[number].straggles_after, default=None
    )
