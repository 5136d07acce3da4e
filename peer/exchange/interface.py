"""What every exchange strategy offers."""

from dataclasses import dataclass
from typing import Protocol

from peer.aggregation import Gradient
from peer.messages import PeerManifest


@dataclass(frozen=True)
class Exchanged:
    """What a round's exchange came to.

    Attributes:
        mean: of all peers' gradients, weighted by samples; the same bits on every peer.
        manifests: of all peers, in peer order.
        objects: keys of what this peer has stored; nobody reads them once all have begun the next round.
        uncompressed_bytes: how large the parts that this peer's manifest names were without a codec.
        send_seconds: until those parts were stored, compression included.
    """

    mean: Gradient
    manifests: list[PeerManifest]
    objects: list[str]
    uncompressed_bytes: int
    send_seconds: float


class Exchange(Protocol):
    """One strategy; one object a peer and generation."""

    def run(self, own: Gradient, manifest: PeerManifest) -> Exchanged:
        """Return the mean of all peers' gradients of this round.

        Args:
            own: this peer's gradient; its tensors belong to the exchange from now on.
            manifest: this peer's manifest, without the parts that the strategy stores and names.

        Raises:
            PeerLost, PeerDiverged, RankTaken: the round cannot be completed.
            ObjectCorrupt: a part is not what its manifest says.
            TrainingDiverged: this peer's gradient is not finite, and there is a codec.
        """
