"""All-gather: every peer stores its whole gradient, and reads everyone else's."""

import msgspec

from peer.aggregation import Gradient, WeightedMean
from peer.exchange.wire import decode_gradient, encode_gradient
from peer.messages import PeerManifest, StoredObject
from peer.rendezvous import Rendezvous
from peer.store import keys
from peer.store.s3 import Store


class AllGather:
    """Up one gradient, down P−1, folded in peer order as they come."""

    def __init__(self, store: Store, rendezvous: Rendezvous) -> None:
        self._store = store
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> tuple[Gradient, list[PeerManifest]]:
        """Return the mean over all peers and their manifests; see `Exchange.run`."""
        part = self._store_gradient(own, manifest)
        manifest = msgspec.structs.replace(manifest, parts=[part], num_samples=own.num_samples)
        self._rendezvous.publish(manifest)
        mean = WeightedMean()
        manifests = []
        for theirs in self._rendezvous.collect(manifest):
            mean.add(own if theirs.peer == manifest.peer else self._fetch(theirs))
            manifests.append(theirs)
        return mean.result(), manifests

    def _store_gradient(self, gradient: Gradient, manifest: PeerManifest) -> StoredObject:
        encoded = encode_gradient(gradient)
        key = keys.exchange(manifest.run, manifest.generation, manifest.round, manifest.peer, 0)
        checksum = encoded.xxh3()
        self._store.put(key, encoded.chunks, encoded.length)
        return StoredObject(key=key, length=encoded.length, checksum=checksum)

    def _fetch(self, manifest: PeerManifest) -> Gradient:
        (part,) = manifest.parts
        buffer = self._store.get(part.key, part.length, part.checksum)
        return decode_gradient(buffer, manifest.num_samples)
