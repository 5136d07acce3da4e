"""Memory to receive large objects into, used again as soon as nothing refers to what was in it.

The allocator would keep some freed buffers for each thread that ever received one, and have the system clear
new pages for the others, round after round.
"""

import mmap
import threading
import weakref

import numpy as np

_GRAIN_BYTES = 1 << 20
"""Buffers are multiples of it, so that parts of almost the same length fit into each other's."""

_MOST_IDLE_BYTES = 64 << 20


class Buffers:
    """Gives buffers away and takes them back by itself; safe to share between threads, and across `fork`.

    Args:
        most_idle_bytes: what it keeps of those that nobody uses; the system gets back the rest.
    """

    def __init__(self, most_idle_bytes: int = _MOST_IDLE_BYTES) -> None:
        self._most_idle_bytes = most_idle_bytes
        self._idle: list[mmap.mmap] = []
        # the end of a buffer's last user may come in the middle of `take`, in the same thread
        self._lock = threading.RLock()

    def take(self, num_bytes: int) -> memoryview:
        """Return writable memory of so many bytes, of any content, for as long as something refers to it.

        Views and tensors on it count as such. Raises MemoryError or OSError as the system does.
        """
        memory = self._fitting(num_bytes) or _new(num_bytes)
        # not the map itself: that is there again afterwards
        users = np.frombuffer(memory, dtype=np.uint8, count=num_bytes)
        weakref.finalize(users, self._give_back, memory).atexit = False
        return users.data

    @property
    def idle_bytes(self) -> int:
        """How much it keeps that nobody uses."""
        with self._lock:
            return sum(map(len, self._idle))

    def _fitting(self, num_bytes: int) -> mmap.mmap | None:
        with self._lock:
            for number, memory in enumerate(self._idle):
                if num_bytes <= len(memory) <= 2 * num_bytes:
                    return self._idle.pop(number)
        return None

    def _give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            if self.idle_bytes + len(memory) <= self._most_idle_bytes:
                self._idle.append(memory)


def _new(num_bytes: int) -> mmap.mmap:
    grains = max(1, -(-num_bytes // _GRAIN_BYTES))
    return mmap.mmap(-1, grains * _GRAIN_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
