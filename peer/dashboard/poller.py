"""A source that is read again and again in a thread of its own, so that a slow one holds up no other."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from peer.dashboard.state import Source
from peer.errors import ConfigurationError, PeerlessError

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class Poller(Generic[Value]):
    """The newest value of a source, and how its last reading ended.

    Args:
        name: as it is shown.
        read: returns the value and one line about it; a ConfigurationError means that there is no such
            source, any other PeerlessError that it does not answer.
        interval_seconds: asked before each wait.
    """

    def __init__(
        self, name: str, read: Callable[[], tuple[Value, str]], interval_seconds: Callable[[], float]
    ) -> None:
        self._name = name
        self._read = read
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"poll-{name}", daemon=True)
        self.value: Value | None = None
        self.count = 0
        self.source = Source(name, "absent", "not read yet")

    def start(self) -> None:
        """Read from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; a reading that is under way may still end."""
        self._ended.set()

    def read_once(self) -> None:
        """Read now, in the caller's thread."""
        try:
            self.value, text = self._read()
            self.source = Source(self._name, "ok", text, time.time())
        except ConfigurationError as error:
            self.source = Source(self._name, "absent", str(error), self.source.read_at)
        except PeerlessError as error:
            self.source = Source(self._name, "failed", str(error), self.source.read_at)
        except Exception as error:
            log.exception("reading the %s failed", self._name)
            text = f"an error that nobody expected: {type(error).__name__}; the page's log has it"
            self.source = Source(self._name, "failed", text, self.source.read_at)
        self.count += 1

    def _run(self) -> None:
        while not self._ended.is_set():
            self.read_once()
            self._ended.wait(self._interval_seconds())
