"""Exchange strategies: how every peer comes to hold the mean of all gradients, bit for bit the same."""

from collections.abc import Callable

from peer.errors import ConfigurationError
from peer.exchange.all_gather import AllGather
from peer.exchange.interface import Exchange, Exchanged
from peer.exchange.scatter_reduce import ScatterReduce
from peer.rendezvous import Rendezvous
from peer.store.s3 import Store

__all__ = ["STRATEGIES", "Exchange", "Exchanged", "create"]

STRATEGIES: dict[str, Callable[[Store, Rendezvous], Exchange]] = {
    "all_gather": AllGather,
    "scatter_reduce": ScatterReduce,
}


def create(name: str, store: Store, rendezvous: Rendezvous) -> Exchange:
    """Return the strategy of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in STRATEGIES:
        raise ConfigurationError(f"--exchange is {name!r}; it is one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](store, rendezvous)
