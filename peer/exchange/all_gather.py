"""All-gather: every peer stores its whole gradient, and reads everyone else's."""

from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, Summand, WeightedMean
from peer.errors import ObjectCorrupt
from peer.exchange import enclosed
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut, parts_for
from peer.exchange.traffic import Traffic
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store import keys


class AllGather:
    """Up one gradient, down P-1, folded in peer order as they come."""

    def __init__(self, traffic: Traffic, rendezvous: Rendezvous) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`."""
        manifest = replace(manifest, num_samples=own.num_samples)
        pieces = whole_pieces(own)
        if len(pieces) == 1:
            return self._enclosed(own, manifest)
        sent = self._traffic.put_parts(manifest, pieces, exchange_keys(manifest, len(pieces)))
        manifest = replace(manifest, parts=sent.parts)
        self._rendezvous.publish(manifest)

        manifests: list[PeerManifest] = []

        def fetches() -> Iterator[Callable[[], Summand]]:
            for theirs in self._rendezvous.collect(manifest):
                manifests.append(theirs)
                is_own = theirs.peer == manifest.peer
                yield from kept(pieces) if is_own else fetched(self._traffic, theirs, pieces)

        means = [WeightedMean() for _ in pieces]
        for number, part in enumerate(self._traffic.transfers.ahead(fetches())):
            means[number % len(pieces)].add(part)
        mean = assemble(own, len(pieces), (mean.result() for mean in means))
        left = self._rendezvous.objects_of(manifest)
        return Exchanged(mean, manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _enclosed(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Exchange a gradient of one part: half the requests, and fewer that wait."""
        key = self._rendezvous.key_of(manifest)
        sent = enclosed.send(self._traffic, self._rendezvous, manifest, [own], [key])
        manifest = replace(manifest, parts=sent.parts)
        mean, manifests = enclosed.fold(self._traffic, self._rendezvous, own, manifest, keys.peer_manifest)
        return Exchanged(assemble(own, 1, [mean]), manifests, [key], sent.uncompressed_bytes, sent.seconds)


def whole_pieces(gradient: Gradient) -> list[Gradient]:
    """Return views on the parts in which a gradient travels that everybody reads whole."""
    return cut(gradient, parts_for(gradient.values.nbytes))


def exchange_keys(manifest: PeerManifest, num_parts: int) -> list[str]:
    """Return where the parts of this manifest's gradient are stored."""
    where = (manifest.run, manifest.generation, manifest.round, manifest.peer)
    return [keys.exchange(*where, number) for number in range(num_parts)]


def kept(pieces: list[Gradient]) -> Iterator[Callable[[], Gradient]]:
    """Yield what gives this peer's own parts, in their order."""
    yield from (lambda piece=piece: piece for piece in pieces)


def fetched(
    traffic: Traffic, theirs: PeerManifest, pieces: list[Gradient]
) -> Iterator[Callable[[], Summand]]:
    """Yield what fetches another peer's parts, in their order, each of the shapes of `pieces`.

    Raises:
        ObjectCorrupt: they are more or fewer; names the peer.
    """
    if len(theirs.parts) != len(pieces):
        raise ObjectCorrupt(
            f"peer {theirs.peer} stored its gradient in {len(theirs.parts)} parts, not {len(pieces)}"
        )
    for part, piece in zip(theirs.parts, pieces, strict=True):
        yield partial(traffic.get_part, part, theirs, piece)
