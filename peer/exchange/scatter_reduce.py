"""Scatter-reduce: peer k reduces its share, the k-th of all gradients, and stores what it makes of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, Summand, WeightedMean
from peer.exchange import enclosed
from peer.exchange.all_gather import kept
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut, parts_for
from peer.exchange.reduced import gather, part_key, part_of, reduced_key
from peer.exchange.traffic import Sent, Traffic
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store import keys


@dataclass(frozen=True)
class _Reduced:
    """What the first half of a round comes to.

    Attributes:
        parts: of this peer's share of the mean.
        manifests: of all peers, in peer order.
        sent: what this peer has stored for the others.
        objects: the keys of that.
    """

    parts: list[Gradient]
    manifests: list[PeerManifest]
    sent: Sent
    objects: list[str]


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
        manifest = replace(manifest, num_samples=own.num_samples)
        reduce = self._reduce_enclosed if each == 1 else self._reduce

        reduced = reduce(pieces, share, manifest)
        left = [*reduced.objects, *self._publish(reduced.parts, manifest)]
        fetches = gather(self._traffic, self._rendezvous, pieces, manifest, reduced.parts[0].num_samples)
        fetches[share.start : share.stop] = kept(reduced.parts)
        whole = assemble(own, len(pieces), self._traffic.transfers.ahead(fetches))
        sent = reduced.sent
        return Exchanged(whole, reduced.manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _publish(self, reduced: list[Gradient], manifest: PeerManifest) -> list[str]:
        """Store this peer's share of the mean and its manifest, a part with it; return the keys."""
        if len(reduced) == 1:
            key = self._rendezvous.reduced_key_of(manifest)
            part, encoded = self._traffic.enclose_mean(reduced[0], key)
            return [self._rendezvous.publish_reduced([part], manifest, encoded)]
        reduced_keys = [reduced_key(manifest, str(number)) for number in range(len(reduced))]
        stored = self._traffic.put_means(reduced, reduced_keys)
        return [*reduced_keys, self._rendezvous.publish_reduced(stored, manifest)]

    def _reduce_enclosed(self, pieces: list[Gradient], share: range, manifest: PeerManifest) -> _Reduced:
        """Reduce shares of one part, each with its manifest: no peer reads a manifest of its own."""
        mine = pieces[share.start]
        sent = enclosed.send(
            self._traffic, self._rendezvous, manifest, pieces, _keys(pieces, share, manifest)
        )
        manifest = replace(manifest, parts=sent.parts)

        def key_of(run: str, generation: int, round_number: int, peer: int) -> str:
            return keys.exchange(run, generation, round_number, peer, share.start)

        mean, manifests = enclosed.fold(self._traffic, self._rendezvous, mine, manifest, key_of)
        return _Reduced([mean], manifests, sent, [part.key for part in sent.parts])

    def _reduce(self, pieces: list[Gradient], share: range, manifest: PeerManifest) -> _Reduced:
        """Reduce shares of several parts, which are stored before the manifest."""
        sent = self._traffic.put_parts(manifest, pieces, _keys(pieces, share, manifest))
        manifest = replace(manifest, parts=sent.parts)
        self._rendezvous.publish(manifest)
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
        for number, part in enumerate(self._traffic.transfers.ahead(fetches())):
            means[number % len(means)].add(part)
        left = self._rendezvous.objects_of(manifest)
        return _Reduced([mean.result() for mean in means], manifests, sent, left)


def _keys(pieces: list[Gradient], share: range, manifest: PeerManifest) -> list[str | None]:
    """Return where each part goes; this peer's own share stays here."""
    return [None if part in share else part_key(manifest, part) for part in range(len(pieces))]
