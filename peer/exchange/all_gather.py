"""All-gather: every peer stores its whole gradient, and reads everyone else's."""

from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from peer.aggregation import Gradient, WeightedMean
from peer.errors import ObjectCorrupt
from peer.exchange.interface import Exchanged
from peer.exchange.parts import assemble, cut
from peer.exchange.traffic import Traffic, ahead
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store import keys

_PART_BYTES = 16 << 20
"""One part is folded while the next ones come; so much of each is in memory beside the sum."""


class AllGather:
    """Up one gradient, down P-1, folded in peer order as they come."""

    def __init__(self, traffic: Traffic, rendezvous: Rendezvous) -> None:
        self._traffic = traffic
        self._rendezvous = rendezvous

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean over all peers; see `Exchange.run`."""
        num_parts = max(1, -(-own.values.nbytes // _PART_BYTES))
        pieces = cut(own, num_parts)
        where = (manifest.run, manifest.generation, manifest.round, manifest.peer)
        object_keys = [keys.exchange(*where, number) for number in range(num_parts)]
        sent = self._traffic.put_parts(manifest, pieces, object_keys)
        manifest = replace(manifest, parts=sent.parts, num_samples=own.num_samples)
        self._rendezvous.publish(manifest)

        manifests: list[PeerManifest] = []

        def fetches() -> Iterator[Callable[[], Gradient]]:
            for theirs in self._rendezvous.collect(manifest):
                manifests.append(theirs)
                if theirs.peer == manifest.peer:
                    yield from (lambda piece=piece: piece for piece in pieces)
                else:
                    yield from self._fetches(theirs, pieces)

        means = [WeightedMean() for _ in pieces]
        for number, part in enumerate(ahead(fetches())):
            means[number % num_parts].add(part)
        mean = assemble(own, num_parts, (mean.result() for mean in means))
        left = self._rendezvous.objects_of(manifest)
        return Exchanged(mean, manifests, left, sent.uncompressed_bytes, sent.seconds)

    def _fetches(self, theirs: PeerManifest, pieces: list[Gradient]) -> Iterator[Callable[[], Gradient]]:
        if len(theirs.parts) != len(pieces):
            raise ObjectCorrupt(
                f"peer {theirs.peer} stored its gradient in {len(theirs.parts)} parts, not {len(pieces)}"
            )
        for part, piece in zip(theirs.parts, pieces, strict=True):
            yield partial(self._traffic.get_part, part, theirs, piece)
