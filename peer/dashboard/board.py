"""The newest state as the bytes that are sent, shared by the collector's thread and the event loop."""

import asyncio
import threading

from peer import messages
from peer.dashboard.state import Curves, Source, State


class Board:
    """Holds the newest state; whoever waits for another is woken."""

    def __init__(self) -> None:
        empty = State(
            now=0.0,
            server="",
            is_following=True,
            sources=[Source("page", "absent", "nothing was read yet")],
            findings=[],
            run=None,
            curves=Curves(),
            functions=[],
            invocations=[],
            retries={},
            peers=[],
        )
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._body = messages.encode(empty)
        self.number = 0

    def publish(self, state: State) -> None:
        """Replace the state; to be called in any thread."""
        body = messages.encode(state)
        with self._lock:
            self._body = body
            self.number += 1
            waiting = list(self._waiting.items())
        for event, loop in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def body(self) -> bytes:
        """Return the newest state as JSON."""
        with self._lock:
            return self._body

    def subscribe(self, event: asyncio.Event) -> None:
        """Set `event`, on the running loop, at each new state from now on."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._waiting[event] = loop

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Leave `event` alone from now on."""
        with self._lock:
            self._waiting.pop(event, None)

    @property
    def num_watching(self) -> int:
        """How many wait for states."""
        with self._lock:
            return len(self._waiting)
