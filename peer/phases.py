"""Where a round's time goes: seconds by phase, of one thread."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("publish", "evaluate", "compute", "average", "exchange", "update")


class PhaseClock:
    """Adds up the wall seconds of phases, which do not nest."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of this block as `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call, every phase named, and begin anew."""
        taken = {name: self._seconds.get(name, 0.0) for name in PHASES}
        self._seconds.clear()
        return taken
