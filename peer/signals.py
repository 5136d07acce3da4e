"""SIGINT and SIGTERM: the first asks for a checkpoint after this round, the second ends at once."""

import os
import signal
from types import FrameType


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
