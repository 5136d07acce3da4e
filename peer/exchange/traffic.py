"""Parts of gradients on their way to and from the store, some at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from peer.aggregation import Gradient, Summand
from peer.compression.codecs import UNCOMPRESSED, Codec
from peer.errors import ObjectCorrupt
from peer.exchange.compressor import Compressor
from peer.messages import PeerManifest, StoredObject
from peer.store.ahead import Transfers
from peer.store.buffers import Buffers
from peer.store.checksums import verify
from peer.store.gradients import Compressed, encode_gradient, named, open_gradient
from peer.store.letters import Enclosed, Letter
from peer.store.s3 import Store
from peer.store.tensors import EncodedTensors


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
        self.buffers = Buffers()
        self.transfers = Transfers()

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
        began, compress = time.perf_counter(), self._compressing(manifest, pieces)

        def put(number: int) -> tuple[list[StoredObject], int]:
            piece, key, encoded = pieces[number], object_keys[number], compress(number)
            if key is None:
                return [], 0
            return [self._put(key, encoded)], encode_gradient(piece).length

        done = self.transfers.map(put, range(len(pieces)))
        parts, sizes = [part for parts, _ in done for part in parts], [size for _, size in done]
        return Sent(parts, sum(sizes), time.perf_counter() - began)

    def enclose(
        self, manifest: PeerManifest, pieces: Sequence[Gradient], object_keys: Sequence[str | None]
    ) -> list[Enclosed]:
        """Return the parts that have a key, and what the manifest that goes with one says of it.

        All are compressed, and afterwards hold what everybody else decodes from them; raises as `put_parts`.
        """
        compress = self._compressing(manifest, pieces)

        def enclose(number: int) -> list[Enclosed]:
            key, encoded = object_keys[number], compress(number)
            return [] if key is None else [_enclosed(encoded, key)]

        found = self.transfers.map(enclose, range(len(pieces)))
        return [each for enclosed in found for each in enclosed]

    def get_part(self, part: StoredObject, theirs: PeerManifest, like: Gradient) -> Summand:
        """Return a part of another peer's gradient, of the same shapes as `like`, not decoded yet.

        Raises:
            ObjectCorrupt: it has others, or is not what their manifest says; names the peer.
        """
        with named(_whose(theirs)):
            found = self._opened(self._receive(part), part.key, theirs.num_samples, like, self.codec)
        return _with_its_name(found, theirs)

    def open_enclosed(self, letter: Letter[PeerManifest], like: Gradient) -> Summand:
        """Return the gradient that another peer's letter encloses; see `get_part`."""
        theirs = letter.message
        with named(_whose(theirs)):
            if len(theirs.parts) != 1:
                raise ObjectCorrupt(f"its manifest names {len(theirs.parts)} parts, not one: another model?")
            part = theirs.parts[0]
            verify(letter.enclosed, part.checksum, part.key)
            found = self._opened(letter.enclosed, part.key, theirs.num_samples, like, self.codec)
        return _with_its_name(found, theirs)

    def put_means(self, means: Sequence[Gradient], object_keys: Sequence[str]) -> list[StoredObject]:
        """Store parts of the mean, sent from their own memory, and return what a manifest says of them."""
        puts = zip(object_keys, map(encode_gradient, means), strict=True)
        return self.transfers.map(lambda put: self._put(*put), puts)

    def get_mean(self, part: StoredObject, num_samples: int, like: Gradient) -> Gradient:
        """Return a part of the mean, of the same shapes as `like`; raises ObjectCorrupt as `get_part`."""
        return self._opened(self._receive(part), part.key, num_samples, like, UNCOMPRESSED).decoded()

    def enclose_mean(self, mean: Gradient, key: str) -> Enclosed:
        """Return what a manifest says of a part of the mean that goes with it; and the part."""
        return _enclosed(encode_gradient(mean), key)

    def enclosed_mean(
        self, enclosed: memoryview, part: StoredObject, num_samples: int, like: Gradient
    ) -> Gradient:
        """Return the part of the mean that a letter encloses; see `get_mean`."""
        verify(enclosed, part.checksum, part.key)
        return self._opened(enclosed, part.key, num_samples, like, UNCOMPRESSED).decoded()

    def _compressing(
        self, manifest: PeerManifest, pieces: Sequence[Gradient]
    ) -> Callable[[int], EncodedTensors]:
        """Return what compresses the piece of a number; see `Compressor.compress`."""
        ends = list(accumulate((len(piece.values) for piece in pieces), initial=0))
        return lambda number: self._compressor.compress(pieces[number], ends[number], ends[-1], manifest)

    def _put(self, key: str, encoded: EncodedTensors) -> StoredObject:
        stored, _ = _enclosed(encoded, key)
        self._store.put(key, encoded.chunks, encoded.length)
        return stored

    def _receive(self, stored: StoredObject) -> memoryview:
        return self._store.receive(stored.key, stored.length, stored.checksum, self.buffers.take)

    def _opened(
        self, buffer: memoryview, key: str, num_samples: int, like: Gradient, codec: Codec
    ) -> Summand:
        found = open_gradient(buffer, num_samples, codec, key=key)
        if found.shape != like.shape:
            raise ObjectCorrupt(f"{key} has {found.shape} elements, not {like.shape}: another model?")
        return found


def _enclosed(encoded: EncodedTensors, key: str) -> Enclosed:
    return StoredObject(key=key, length=encoded.length, checksum=encoded.xxh3()), encoded


def _whose(theirs: PeerManifest) -> str:
    return f"gradient of peer {theirs.peer} in round {theirs.round}"


def _with_its_name(found: Summand, theirs: PeerManifest) -> Summand:
    """Return what is decoded later so that its errors say whose gradient it is, too."""
    return replace(found, name=f"{_whose(theirs)}: {found.name}") if isinstance(found, Compressed) else found
