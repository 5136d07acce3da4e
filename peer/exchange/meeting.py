"""Where peers that were apart become one: their states are averaged, in peer order, the same bits for all.

The optimizer's moments are averaged with the weights: Yu et al., "On the Linear Speedup Analysis of
Communication Efficient Momentum SGD" (arXiv 1905.03817, Algorithm 1). So after a meeting nothing of a peer is
its own, and a checkpoint is what it is of peers in step.
"""

from collections.abc import Callable, Iterator

import torch
from msgspec.structs import replace

from peer.aggregation import Gradient, Summand, WeightedMean
from peer.exchange.all_gather import fetched, kept, whole_pieces
from peer.exchange.compressor import Compressor
from peer.exchange.traffic import Traffic
from peer.learning.optimizers import FlatOptimizer
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store import keys
from peer.store.s3 import Store


class Meeting:
    """Averages the states of all peers, not compressed.

    Args:
        store: where they go.
        rendezvous: this peer's.
    """

    def __init__(self, store: Store, rendezvous: Rendezvous) -> None:
        self._traffic = Traffic(store, Compressor())
        self._rendezvous = rendezvous

    def average(self, optimizer: FlatOptimizer, mean: Gradient, manifest: PeerManifest) -> list[str]:
        """Make weights, moments and buffers the mean of all peers', in place; see `Pace.meet`.

        Up go the weights and the moments (AdamW: three times the weights), down P-1 times as much.
        """
        pieces = _pieces(optimizer, mean)
        where = (manifest.run, manifest.generation, manifest.round, manifest.peer)
        object_keys = [keys.meeting(*where, number) for number in range(len(pieces))]
        # parts of tensors, not of one gradient: nothing in them was computed at weights, nothing has samples
        own = replace(manifest, weights_sha256="", num_samples=1, training=None, validation=None)
        own = replace(own, parts=self._traffic.put_parts(own, pieces, object_keys).parts)
        self._rendezvous.publish(own, keys.meeting_manifest)

        def fetches() -> Iterator[Callable[[], Summand]]:
            for theirs in self._rendezvous.collect(own, keys.meeting_manifest):
                is_own = theirs.peer == own.peer
                yield from kept(pieces) if is_own else fetched(self._traffic, theirs, pieces)

        means = [WeightedMean() for _ in pieces]
        for number, part in enumerate(self._traffic.transfers.ahead(fetches())):
            means[number % len(pieces)].add(part)
        for piece, each in zip(pieces, means, strict=True):
            averaged = each.result()
            piece.values.copy_(averaged.values)
            piece.buffers.copy_(averaged.buffers)
            piece.counters.copy_(averaged.counters)
        return self._rendezvous.objects_of(own, keys.meeting_manifest)


def _pieces(optimizer: FlatOptimizer, mean: Gradient) -> list[Gradient]:
    """Return views on all that a peer has learned, in an order that is the same on all peers."""
    no_buffers, no_counters = torch.empty(0), torch.empty(0, dtype=torch.int64)
    state = Gradient(optimizer.parameters, mean.buffers, mean.counters, 1)
    moments = [Gradient(each, no_buffers, no_counters, 1) for each in optimizer.moments()]
    return [piece for whole in (state, *moments) for piece in whole_pieces(whole)]
