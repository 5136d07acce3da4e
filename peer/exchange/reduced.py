"""What the strategies that reduce by shares have in common: share k of every gradient belongs to peer k.

A gradient of `num_peers * m` parts has m in each share, one after the other.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

from peer.aggregation import Gradient
from peer.errors import ObjectCorrupt
from peer.exchange.traffic import Traffic
from peer.messages import PeerManifest, ReducedManifest, StoredObject
from peer.rendezvous import Rendezvous
from peer.store import keys
from peer.store.letters import Letter


def part_key(manifest: PeerManifest, part: int) -> str:
    """Return the key of one part of the gradient of this manifest's peer."""
    return keys.exchange(manifest.run, manifest.generation, manifest.round, manifest.peer, part)


def reduced_key(manifest: PeerManifest, suffix: str) -> str:
    """Return a key for the share of the mean that belongs to this manifest's peer, or for a part of it."""
    return keys.reduced(manifest.run, manifest.generation, manifest.round, manifest.peer, suffix)


def part_of(theirs: PeerManifest, part: int) -> StoredObject:
    """Return a part of their gradient.

    Raises:
        ObjectCorrupt: their manifest does not name it.
    """
    key = part_key(theirs, part)
    for stored in theirs.parts:
        if stored.key == key:
            return stored
    raise ObjectCorrupt(
        f"the manifest of peer {theirs.peer} in round {theirs.round} does not name {key}: another model?"
    )


def gather(
    traffic: Traffic,
    rendezvous: Rendezvous,
    pieces: Sequence[Gradient],
    manifest: PeerManifest,
    num_samples: int,
) -> list[Callable[[], Gradient]]:
    """Return what fetches each part of the mean, once the peer that it belongs to has said where it is."""
    each = len(pieces) // rendezvous.num_peers

    def share(peer: int) -> Letter[ReducedManifest]:
        letter = rendezvous.reduced(manifest.round, peer, traffic.buffers.take)
        found = len(letter.message.parts)
        if found != each:
            raise ObjectCorrupt(f"peer {peer} stored its share of the mean in {found} parts, not {each}")
        return letter

    # several parts are asked for one by one, and named by one manifest
    share_of = cache(share) if each > 1 else share

    def fetch(number: int, piece: Gradient) -> Gradient:
        peer, part = divmod(number, each)
        letter = share_of(peer)
        stored = letter.message.parts[part]
        if letter.enclosed:
            return traffic.enclosed_mean(letter.enclosed, stored, num_samples, piece)
        return traffic.get_mean(stored, num_samples, piece)

    return [partial(fetch, number, piece) for number, piece in enumerate(pieces)]
