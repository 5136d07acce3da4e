"""Scatter-reduce: peer k reduces part k of all gradients, and stores what it makes of them."""

from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, WeightedMean
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut
from peer.exchange.reduced import gather, part_for, part_key, reduced_key
from peer.exchange.traffic import Traffic, ahead
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous


class ScatterReduce:
    """Up one gradient, down 2·(P-1)/P: P-1 parts to reduce, then the P-1 that the others have reduced."""

    def __init__(self, traffic: Traffic, rendezvous: Rendezvous) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`."""
        num_peers = self._rendezvous.num_peers
        pieces = cut(own, num_peers)
        is_own = [peer == manifest.peer for peer in range(num_peers)]
        object_keys = [None if is_own[peer] else part_key(manifest, peer) for peer in range(num_peers)]
        sent = self._traffic.put_parts(manifest, pieces, object_keys)
        manifest = replace(manifest, parts=sent.parts, num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        reduced, manifests = self._reduce(pieces[manifest.peer], manifest)
        stored = self._traffic.put_mean(reduced_key(manifest, "0"), reduced)
        left = [*self._rendezvous.objects_of(manifest), stored.key]
        left.append(self._rendezvous.publish_reduced(stored, manifest))
        fetches = gather(self._traffic, self._rendezvous, pieces, manifest, reduced.num_samples)
        fetches[manifest.peer] = lambda: reduced
        mean = assemble(own, num_peers, ahead(fetches))
        return Exchanged(mean, manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _reduce(self, own: Gradient, manifest: PeerManifest) -> tuple[Gradient, list[PeerManifest]]:
        """Fold this peer's part of every gradient, in peer order."""
        manifests: list[PeerManifest] = []

        def fetches() -> Iterator[Callable[[], Gradient]]:
            for theirs in self._rendezvous.collect(manifest):
                manifests.append(theirs)
                if theirs.peer == manifest.peer:
                    yield lambda: own
                else:
                    part = part_for(manifest.peer, theirs)
                    yield partial(self._traffic.get_part, part, theirs, own)

        mean = WeightedMean()
        for gradient in ahead(fetches()):
            mean.add(gradient)
        return mean.result(), manifests
