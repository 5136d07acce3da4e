"""What strategies have in common whose parts are small: each goes with its peer's manifest, in one object."""

import time
from collections.abc import Sequence

from peer.aggregation import Gradient, WeightedMean
from peer.exchange.traffic import Sent, Traffic
from peer.messages import PeerManifest
from peer.rendezvous import KeyOf, Rendezvous
from peer.store.gradients import encode_gradient


def send(
    traffic: Traffic,
    rendezvous: Rendezvous,
    manifest: PeerManifest,
    pieces: Sequence[Gradient],
    object_keys: Sequence[str | None],
) -> Sent:
    """Store each part under its key, the manifest in front of it; a part without a key stays here.

    All parts are compressed, and afterwards hold what everybody else decodes from them.

    Raises:
        TrainingDiverged: see `Compressor.compress`.
        RankTaken: see `Rendezvous.send`.
    """
    began = time.perf_counter()
    enclosed = traffic.enclose(manifest, pieces, object_keys)
    rendezvous.send(manifest, enclosed)
    sizes = [encode_gradient(piece).length for piece, key in zip(pieces, object_keys, strict=True) if key]
    return Sent([part for part, _ in enclosed], sum(sizes), time.perf_counter() - began)


def fold(
    traffic: Traffic, rendezvous: Rendezvous, own: Gradient, manifest: PeerManifest, key_of: KeyOf
) -> tuple[Gradient, list[PeerManifest]]:
    """Return the mean of one part of all gradients, and everyone's manifest, in peer order.

    Args:
        traffic: opens what comes.
        rendezvous: waits for it.
        own: this peer's part.
        manifest: this peer's.
        key_of: where a peer has put the part, its manifest in front of it.

    Raises:
        PeerLost, PeerDiverged, ObjectCorrupt: as `Exchange.run`.
    """
    manifests, mean = list[PeerManifest](), WeightedMean()
    for letter in rendezvous.letters(manifest, key_of, traffic.buffers.take):
        manifests.append(letter.message)
        is_own = letter.message.peer == manifest.peer
        mean.add(own if is_own else traffic.open_enclosed(letter, own))
    return mean.result(), manifests
