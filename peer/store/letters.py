"""A message and the tensors that it speaks of in one object: what is small is worth no second request.

    0    message   JSON
    …    a line end, and spaces up to the next multiple of 64
    …    enclosed  a tensor object (`peer.store.tensors`)

A message that encloses nothing is JSON alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from peer import messages
from peer.messages import MessageType, StoredObject
from peer.store.s3 import Store
from peer.store.tensors import ALIGNMENT_BYTES, EncodedTensors

_LINE_END = b"\n"
"""In no message: JSON escapes it."""


Enclosed = tuple[StoredObject, EncodedTensors]
"""A tensor object that goes with a message, and what that says of it: under which key both are."""


@dataclass(frozen=True)
class Letter(Generic[MessageType]):
    """A message, and what it encloses: empty if it encloses nothing."""

    message: MessageType
    enclosed: memoryview


def put(store: Store, key: str, message: Any, enclosed: EncodedTensors | None) -> None:
    """Store both under `key`; the tensors, if there are any, are sent from their own memory."""
    if enclosed is None:
        store.put_message(key, message)
        return
    head = messages.encode(message) + _LINE_END
    head += b" " * (-len(head) % ALIGNMENT_BYTES)
    store.put(key, [head, *enclosed.chunks], len(head) + enclosed.length)


def get_if_exists(
    store: Store, key: str, kind: type[MessageType], allocate: Callable[[int], memoryview]
) -> Letter[MessageType] | None:
    """Return the letter under `key`, or None if there is none.

    Args:
        store: where it is.
        key: names it.
        kind: of the message.
        allocate: gives the memory that the whole object is received into.

    Raises:
        ObjectCorrupt: there is no such message.
    """
    body = store.receive_if_exists(key, allocate)
    if body is None:
        return None
    length = _head_bytes(body)
    message = messages.decode_stored(bytes(body[:length]), kind, key)
    return Letter(message, body[length + -length % ALIGNMENT_BYTES :])


def _head_bytes(body: memoryview) -> int:
    """Return where the first line ends, its end included; the whole length if there is only one."""
    step = 4096
    for start in range(0, len(body), step):
        found = bytes(body[start : start + step]).find(_LINE_END)
        if found >= 0:
            return start + found + 1
    return len(body)
