"""Where a round's time goes: wall seconds by phase, waiting for other peers apart."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from peer.errors import ObjectMissing, PeerlessError
from peer.records.meter import Meter
from peer.store.retry import Patience, retry

PHASES = ("publish", "evaluate", "compute", "average", "exchange", "wait", "update")
WAIT = "wait"
"""What a peer does while others have not published yet: of a slow peer it is the least."""

Result = TypeVar("Result")


class PhaseClock:
    """Adds up the seconds of phases, which do not nest and are of one thread; waits may be of several.

    Args:
        clock: seconds, never backwards.
        meter: counts what phases use of the process; what is waited for others is in the phase here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, meter: Meter | None = None) -> None:
        self._clock = clock
        self._meter = meter
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = Lock()
        self._num_waiting = 0
        self._waiting_since = 0.0
        self._waited_seconds = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of this block as `name`, but for what of it was waited for others."""
        if self._meter is not None:
            self._meter.begin()
        began, waited_before = self._clock(), self._waited_seconds
        try:
            yield
        finally:
            if self._meter is not None:
                self._meter.end(name)
            waited_seconds = self._waited_seconds - waited_before
            self._seconds[name] += self._clock() - began - waited_seconds
            self._seconds[WAIT] += waited_seconds

    def wait_for(self, probe: Callable[[], Result], patience: Patience) -> Result:
        """Return what `probe` returns, called again while it raises ObjectMissing; other errors pass.

        The time from the first miss on is waiting for another peer; where such times of several threads
        overlap, they count once. An object that is there at once was not waited for, however slow the store.

        Raises:
            ObjectMissing: patience has run out.
        """
        is_waiting = False

        def missed(_error: PeerlessError) -> None:
            nonlocal is_waiting
            if not is_waiting:
                is_waiting = True
                self._begin_wait()

        try:
            return retry(
                probe,
                patience,
                is_retryable=lambda error: isinstance(error, ObjectMissing),
                on_retry=missed,
            )
        finally:
            if is_waiting:
                self._end_wait()

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call, every phase named, and begin anew."""
        taken = {name: self._seconds.get(name, 0.0) for name in PHASES}
        self._seconds.clear()
        return taken

    def take_use(self) -> dict[str, Any]:
        """Return what the phases have used since the last call, see `Meter.take`; nothing without a meter."""
        return {} if self._meter is None else self._meter.take()

    def _begin_wait(self) -> None:
        with self._lock:
            if self._num_waiting == 0:
                self._waiting_since = self._clock()
            self._num_waiting += 1

    def _end_wait(self) -> None:
        with self._lock:
            self._num_waiting -= 1
            if self._num_waiting == 0:
                self._waited_seconds += self._clock() - self._waiting_since
