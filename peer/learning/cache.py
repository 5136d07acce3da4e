"""A bounded cache, so that a replica asks the store once for what it uses again and again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Keeps the most recently used values whose sizes add up to at most `capacity`.

    Args:
        capacity: in the unit of the sizes that `get` is told; bytes, or a count with sizes of 1. It may be
            changed at any time, and holds from the next value on that is made.

    Attributes:
        size: what the values add up to that are kept now.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        """Return whether a value is kept under `key`, which does not count as use."""
        return key in self._entries

    def entries(self) -> list[tuple[str, Value, int]]:
        """Return what is kept now: keys, values and sizes, the one that was used last at the end."""
        return [(key, value, size) for key, (value, size) in self._entries.items()]

    def discard(self, key: str) -> None:
        """Keep no value under `key` any more."""
        if key in self._entries:
            self.size -= self._entries.pop(key)[1]

    def get(self, key: str, size: int, make: Callable[[], Value]) -> Value:
        """Return the value under `key`, made if it is not there.

        A value larger than the capacity is returned and not kept. Older values leave before the new one is
        made, so the capacity holds during it, too.
        """
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        if size > self.capacity:
            return make()
        while self._entries and self.size + size > self.capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed
        value = make()
        self._entries[key] = value, size
        self.size += size
        return value
