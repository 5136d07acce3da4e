"""Scatter-reduce: peer k reduces part k of all gradients, and stores what it makes of them."""

from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, WeightedMean
from peer.errors import ObjectCorrupt
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut
from peer.exchange.traffic import ahead, get, put, put_all
from peer.messages import PeerManifest, ReducedManifest, StoredObject
from peer.rendezvous import Rendezvous
from peer.store import keys
from peer.store.s3 import Store


class ScatterReduce:
    """Up one gradient, down 2·(P-1)/P: P-1 parts to reduce, then the P-1 that the others have reduced."""

    def __init__(self, store: Store, rendezvous: Rendezvous) -> None:
        self._store = store
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`."""
        num_peers = self._rendezvous.num_peers
        pieces = cut(own, num_peers)
        named = [(_part_key(manifest, peer), piece) for peer, piece in enumerate(pieces)]
        del named[manifest.peer]
        manifest = replace(manifest, parts=put_all(self._store, named), num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        reduced, manifests = self._reduce(pieces[manifest.peer], manifest)
        stored = self._publish(reduced, manifest)
        mean = assemble(own, num_peers, ahead(self._gather(reduced, pieces, manifest)))
        left = [*self._rendezvous.objects_of(manifest), stored.key, _reduced_manifest_key(manifest)]
        return Exchanged(mean, manifests, left)

    def _reduce(self, own: Gradient, manifest: PeerManifest) -> tuple[Gradient, list[PeerManifest]]:
        """Fold this peer's part of every gradient, in peer order."""
        manifests: list[PeerManifest] = []

        def fetches() -> Iterator[Callable[[], Gradient]]:
            for theirs in self._rendezvous.collect(manifest):
                manifests.append(theirs)
                if theirs.peer == manifest.peer:
                    yield lambda: own
                else:
                    part = _part_for(manifest.peer, theirs)
                    yield partial(get, self._store, part, theirs.num_samples, own)

        mean = WeightedMean()
        for gradient in ahead(fetches()):
            mean.add(gradient)
        return mean.result(), manifests

    def _publish(self, reduced: Gradient, manifest: PeerManifest) -> StoredObject:
        where = (manifest.run, manifest.generation, manifest.round, manifest.peer)
        stored = put(self._store, keys.reduced(*where, "0"), reduced)
        self._rendezvous.publish_reduced(
            ReducedManifest(
                run=manifest.run,
                generation=manifest.generation,
                round=manifest.round,
                peer=manifest.peer,
                incarnation=manifest.incarnation,
                part=stored,
            )
        )
        return stored

    def _gather(
        self, own: Gradient, pieces: list[Gradient], manifest: PeerManifest
    ) -> Iterator[Callable[[], Gradient]]:
        for peer, piece in enumerate(pieces):
            if peer == manifest.peer:
                yield lambda: own
            else:
                part = self._rendezvous.reduced(manifest.round, peer).part
                yield partial(get, self._store, part, own.num_samples, piece)


def _part_key(manifest: PeerManifest, part: int) -> str:
    return keys.exchange(manifest.run, manifest.generation, manifest.round, manifest.peer, part)


def _reduced_manifest_key(manifest: PeerManifest) -> str:
    return keys.reduced_manifest(manifest.run, manifest.generation, manifest.round, manifest.peer)


def _part_for(peer: int, theirs: PeerManifest) -> StoredObject:
    key = _part_key(theirs, peer)
    for part in theirs.parts:
        if part.key == key:
            return part
    raise ObjectCorrupt(f"the manifest of peer {theirs.peer} in round {theirs.round} does not name {key}")
