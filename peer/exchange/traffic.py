"""Parts of gradients on their way to and from the store, some at a time."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

from peer.aggregation import Gradient, Summand
from peer.compression.codecs import UNCOMPRESSED, Codec
from peer.errors import ObjectCorrupt
from peer.exchange.compressor import Compressor
from peer.messages import PeerManifest, StoredObject
from peer.store.buffers import Buffers
from peer.store.gradients import Compressed, encode_gradient, open_gradient
from peer.store.s3 import Store
from peer.store.tensors import EncodedTensors

Fetched = TypeVar("Fetched")

_AT_ONCE = 4
"""Transfers at once: hides the latency of a remote store; more adds nothing once the network is full."""


@dataclass(frozen=True)
class Sent:
    """What a peer has stored of its gradient: what its manifest names, how large it was before, how long."""

    parts: list[StoredObject]
    uncompressed_bytes: int
    seconds: float


class Traffic:
    """One peer's way to the store and back: gradients by the run's codec, their means as float32.

    Args:
        store: where they go.
        compressor: compresses this peer's gradients.
    """

    def __init__(self, store: Store, compressor: Compressor) -> None:
        self._store = store
        self._compressor = compressor
        self._buffers = Buffers()

    @property
    def codec(self) -> Codec:
        """Of gradients."""
        return self._compressor.codec

    def put_parts(
        self, manifest: PeerManifest, pieces: Sequence[Gradient], object_keys: Sequence[str | None]
    ) -> Sent:
        """Store each part of a gradient under its key; a part without one stays here.

        All parts are compressed, and afterwards hold what everybody else decodes from them.

        Raises:
            TrainingDiverged: see `Compressor.compress`.
        """
        began = time.perf_counter()
        ends = list(accumulate((len(piece.values) for piece in pieces), initial=0))

        def put(number: int) -> tuple[list[StoredObject], int]:
            piece, key = pieces[number], object_keys[number]
            encoded = self._compressor.compress(piece, ends[number], ends[-1], manifest)
            if key is None:
                return [], 0
            return [self._put(key, encoded)], encode_gradient(piece).length

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            done = list(threads.map(put, range(len(pieces))))
        parts, sizes = [part for parts, _ in done for part in parts], [size for _, size in done]
        return Sent(parts, sum(sizes), time.perf_counter() - began)

    def get_part(self, part: StoredObject, theirs: PeerManifest, like: Gradient) -> Summand:
        """Return a part of another peer's gradient, of the same shapes as `like`, not decoded yet.

        Raises:
            ObjectCorrupt: it has others, or is not what their manifest says; names the peer.
        """
        whose = f"gradient of peer {theirs.peer} in round {theirs.round}"
        try:
            found = self._get(part, theirs.num_samples, like, self.codec)
        except ObjectCorrupt as error:
            raise ObjectCorrupt(f"{whose}: {error}") from error
        return replace(found, name=f"{whose}: {found.name}") if isinstance(found, Compressed) else found

    def put_means(self, means: Sequence[Gradient], object_keys: Sequence[str]) -> list[StoredObject]:
        """Store parts of the mean, sent from their own memory, and return what a manifest says of them."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._put, object_keys, map(encode_gradient, means)))

    def get_mean(self, part: StoredObject, num_samples: int, like: Gradient) -> Gradient:
        """Return a part of the mean, of the same shapes as `like`; raises ObjectCorrupt as `get_part`."""
        return self._get(part, num_samples, like, UNCOMPRESSED).decoded()

    def _put(self, key: str, encoded: EncodedTensors) -> StoredObject:
        checksum = encoded.xxh3()
        self._store.put(key, encoded.chunks, encoded.length)
        return StoredObject(key=key, length=encoded.length, checksum=checksum)

    def _get(self, stored: StoredObject, num_samples: int, like: Gradient, codec: Codec) -> Summand:
        buffer = self._store.receive(stored.key, stored.length, stored.checksum, self._buffers.take)
        found = open_gradient(buffer, num_samples, codec, key=stored.key)
        if found.shape != like.shape:
            raise ObjectCorrupt(f"{stored.key} has {found.shape} elements, not {like.shape}: another model?")
        return found


def ahead(fetches: Iterable[Callable[[], Fetched]]) -> Iterator[Fetched]:
    """Yield what `fetches` return, in their order, a few of them begun ahead of the one that is yielded.

    `fetches` is taken from in the caller's thread, as there is room; what it raises, and what they raise,
    comes through.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        begun: deque[Future[Fetched]] = deque()
        for fetch in fetches:
            begun.append(threads.submit(fetch))
            if len(begun) == _AT_ONCE:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
