"""An attempt that nobody waits for any more is ended by another thread, in the midst of its request.

Whoever runs attempts gives each an `Abandonment`; whoever waits for a reply says with `ended_by` how that
wait is ended. The two do not know each other: what lies between them need not pass anything on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peer.errors import PeerlessError

_of_this_thread = threading.local()


class Abandoned(PeerlessError):
    """Nobody waits for this attempt any more; ends no run."""


class Abandonment:
    """Whether an attempt has been abandoned. Entered by the thread that makes the attempt, for its length."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._end: Callable[[], None] | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether `abandon` has been called."""
        return self._is_abandoned

    def abandon(self) -> None:
        """End what the attempt waits for, and whatever it would wait for next. From any thread; at once."""
        with self._lock:
            self._is_abandoned = True
            if self._end is not None:
                self._end()

    def __enter__(self) -> None:
        """Be that of this thread until the block ends."""
        _of_this_thread.abandonment = self

    def __exit__(self, *_error: object) -> None:
        """Be that of no thread."""
        _of_this_thread.abandonment = None

    def _waits(self, end: Callable[[], None] | None) -> None:
        with self._lock:
            if end is not None and self._is_abandoned:
                raise Abandoned("nobody waits for this attempt any more")
            self._end = end


@contextmanager
def ended_by(end: Callable[[], None]) -> Iterator[None]:
    """Run the block; `end` is called, in another thread, if this thread's attempt is abandoned meanwhile.

    Raises:
        Abandoned: it was, before the block or within it; what `end` made of the block is the cause.
    """
    abandonment: Abandonment | None = getattr(_of_this_thread, "abandonment", None)
    if abandonment is None:
        yield
        return
    abandonment._waits(end)
    try:
        yield
    except Exception as error:
        if abandonment.is_abandoned:
            raise Abandoned("the attempt was abandoned while it waited") from error
        raise
    finally:
        abandonment._waits(None)
