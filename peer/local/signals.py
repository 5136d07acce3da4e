"""SIGINT and SIGTERM: in a run, first a checkpoint after this round, then the end; elsewhere an error."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from peer.errors import StopRequested


class StopFlag:
    """Whether a signal asked this peer to stop; `signal_number` is 0 until then."""

    def __init__(self) -> None:
        self.signal_number = 0

    def install(self) -> None:
        """Handle both signals from now on. Main thread only."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number:
            os._exit(128 + number)
        self.signal_number = number


@contextmanager
def stop_raised() -> Iterator[None]:
    """Raise StopRequested in the main thread at the first SIGINT or SIGTERM; later ones are ignored.

    So what cleans up after it, in `finally` and `__exit__`, is not disturbed.
    """

    def raise_once(number: int, _frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise StopRequested(f"stopped by {signal.Signals(number).name}", number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, raise_once)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
