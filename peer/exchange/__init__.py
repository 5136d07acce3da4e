"""Exchange strategies: how every peer comes to hold the mean of all gradients, bit for bit the same."""

from typing import Protocol

from peer.aggregation import Gradient
from peer.errors import ConfigurationError
from peer.messages import PeerManifest
from peer.rendezvous import Rendezvous
from peer.store.s3 import Store


class Exchange(Protocol):
    """One strategy; one object a peer and generation."""

    def run(self, own: Gradient, manifest: PeerManifest) -> tuple[Gradient, list[PeerManifest]]:
        """Return the mean of all peers' gradients of this round, and their manifests in peer order.

        Args:
            own: this peer's gradient; its tensors belong to the exchange from now on.
            manifest: this peer's manifest, without the parts that the strategy stores and names.

        Raises:
            PeerLost, PeerDiverged, RankTaken: the round cannot be completed.
            ObjectCorrupt: a part is not what its manifest says.
        """


def create(name: str, store: Store, rendezvous: Rendezvous) -> Exchange:
    """Return the strategy of this name.

    Raises:
        ConfigurationError: there is none.
    """
    from peer.exchange.all_gather import AllGather

    strategies = {"all_gather": AllGather}
    if name not in strategies:
        raise ConfigurationError(f"--exchange is {name!r}; it is one of {', '.join(strategies)}")
    return strategies[name](store, rendezvous)
