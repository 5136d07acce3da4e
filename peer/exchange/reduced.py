"""What the strategies that reduce by parts share: part k of every gradient belongs to peer k."""

from collections.abc import Callable
from functools import partial

from peer.aggregation import Gradient
from peer.errors import ObjectCorrupt
from peer.exchange.traffic import Traffic
from peer.messages import PeerManifest, StoredObject
from peer.rendezvous import Rendezvous
from peer.store import keys


def part_key(manifest: PeerManifest, part: int) -> str:
    """Return the key of one part of the gradient of this manifest's peer."""
    return keys.exchange(manifest.run, manifest.generation, manifest.round, manifest.peer, part)


def reduced_key(manifest: PeerManifest, attempt: str) -> str:
    """Return the key of the part of the mean that belongs to this manifest's peer."""
    return keys.reduced(manifest.run, manifest.generation, manifest.round, manifest.peer, attempt)


def part_for(peer: int, theirs: PeerManifest) -> StoredObject:
    """Return the part of their gradient that this peer reduces.

    Raises:
        ObjectCorrupt: their manifest does not name it.
    """
    key = part_key(theirs, peer)
    for part in theirs.parts:
        if part.key == key:
            return part
    raise ObjectCorrupt(f"the manifest of peer {theirs.peer} in round {theirs.round} does not name {key}")


def gather(
    traffic: Traffic, rendezvous: Rendezvous, pieces: list[Gradient], manifest: PeerManifest, num_samples: int
) -> list[Callable[[], Gradient]]:
    """Return what fetches each part of the mean, once the peer that it belongs to has said where it is."""

    def fetch(peer: int, piece: Gradient) -> Gradient:
        return traffic.get_mean(rendezvous.reduced(manifest.round, peer).part, num_samples, piece)

    return [partial(fetch, peer, piece) for peer, piece in enumerate(pieces)]
