"""Parts of gradients on their way to and from the store, some at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from peer.aggregation import Gradient
from peer.errors import ObjectCorrupt
from peer.messages import StoredObject
from peer.store.gradients import decode_gradient, encode_gradient
from peer.store.s3 import Store

_AT_ONCE = 4
"""Transfers at once: hides the latency of a remote store; more adds nothing once the network is full."""


def put(store: Store, key: str, gradient: Gradient) -> StoredObject:
    """Store one gradient, sent from its own memory, and return what a manifest says of it."""
    encoded = encode_gradient(gradient)
    checksum = encoded.xxh3()
    store.put(key, encoded.chunks, encoded.length)
    return StoredObject(key=key, length=encoded.length, checksum=checksum)


def put_all(store: Store, gradients: Sequence[tuple[str, Gradient]]) -> list[StoredObject]:
    """Store every gradient under its key, and return what a manifest says of them, in their order."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(partial(_put_named, store), gradients))


def get(store: Store, stored: StoredObject, num_samples: int, like: Gradient) -> Gradient:
    """Return a stored gradient, of the same shapes as `like`.

    Raises:
        ObjectCorrupt: it has others, or is not what its manifest says.
    """
    found = decode_gradient(store.get(stored.key, stored.length, stored.checksum), num_samples)
    if found.shape != like.shape:
        raise ObjectCorrupt(f"{stored.key} has {found.shape} elements, not {like.shape}: another model?")
    return found


def ahead(fetches: Iterable[Callable[[], Gradient]]) -> Iterator[Gradient]:
    """Yield what `fetches` return, in their order, a few of them begun ahead of the one that is yielded.

    `fetches` is taken from in the caller's thread, as there is room; what it raises, and what they raise,
    comes through.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        begun: deque[Future[Gradient]] = deque()
        for fetch in fetches:
            begun.append(threads.submit(fetch))
            if len(begun) == _AT_ONCE:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _put_named(store: Store, named: tuple[str, Gradient]) -> StoredObject:
    return put(store, *named)
