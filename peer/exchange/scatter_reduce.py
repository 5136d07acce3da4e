"""Scatter-reduce: peer k reduces its share, the k-th of all gradients, and stores what it makes of them."""

from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, Summand, WeightedMean
from peer.exchange.all_gather import kept
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut, parts_for
from peer.exchange.reduced import gather, part_key, part_of, reduced_key
from peer.exchange.traffic import Traffic
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store.ahead import ahead


class ScatterReduce:
    """Up one gradient, down 2·(P-1)/P: P-1 shares to reduce, then the P-1 that the others have reduced."""

    def __init__(self, traffic: Traffic, rendezvous: Rendezvous) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`."""
        num_peers = self._rendezvous.num_peers
        each = parts_for(own.values.nbytes // num_peers)
        pieces = cut(own, num_peers * each)
        share = range(manifest.peer * each, (manifest.peer + 1) * each)
        object_keys = [None if part in share else part_key(manifest, part) for part in range(len(pieces))]
        sent = self._traffic.put_parts(manifest, pieces, object_keys)
        manifest = replace(manifest, parts=sent.parts, num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        reduced, manifests = self._reduce(pieces, share, manifest)
        left = [*self._rendezvous.objects_of(manifest), *self._publish(reduced, manifest)]
        fetches = gather(self._traffic, self._rendezvous, pieces, manifest, reduced[0].num_samples)
        fetches[share.start : share.stop] = kept(reduced)
        whole = assemble(own, len(pieces), ahead(fetches))
        return Exchanged(whole, manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _publish(self, reduced: list[Gradient], manifest: PeerManifest) -> list[str]:
        """Store this peer's share of the mean and its manifest, a part with it; return the keys."""
        if len(reduced) == 1:
            key = self._rendezvous.reduced_key_of(manifest)
            part, encoded = self._traffic.enclose_mean(reduced[0], key)
            return [self._rendezvous.publish_reduced([part], manifest, encoded)]
        reduced_keys = [reduced_key(manifest, str(number)) for number in range(len(reduced))]
        stored = self._traffic.put_means(reduced, reduced_keys)
        return [*reduced_keys, self._rendezvous.publish_reduced(stored, manifest)]

    def _reduce(
        self, pieces: list[Gradient], share: range, manifest: PeerManifest
    ) -> tuple[list[Gradient], list[PeerManifest]]:
        """Fold this peer's share of every gradient, in peer order, and return the mean's parts."""
        manifests: list[PeerManifest] = []
        mine = pieces[share.start : share.stop]

        def fetches() -> Iterator[Callable[[], Summand]]:
            for theirs in self._rendezvous.collect(manifest):
                manifests.append(theirs)
                if theirs.peer == manifest.peer:
                    yield from kept(mine)
                    continue
                for part, piece in zip(share, mine, strict=True):
                    yield partial(self._traffic.get_part, part_of(theirs, part), theirs, piece)

        means = [WeightedMean() for _ in mine]
        for number, part in enumerate(ahead(fetches())):
            means[number % len(means)].add(part)
        return [mean.result() for mean in means], manifests
