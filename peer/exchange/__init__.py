"""How every peer comes to hold the mean of all gradients, and how far apart peers may be meanwhile."""

from peer.errors import ConfigurationError
from peer.exchange.all_gather import AllGather
from peer.exchange.in_function import InFunction
from peer.exchange.interface import Exchange, Exchanged
from peer.exchange.pace import Pace
from peer.exchange.scatter_reduce import ScatterReduce
from peer.exchange.traffic import Traffic
from peer.invocations.fanout import FanOut
from peer.invocations.invokers import Invoker
from peer.rendezvous import Rendezvous

__all__ = ["Exchange", "Exchanged", "Pace", "create"]


def create(
    name: str, traffic: Traffic, rendezvous: Rendezvous, invoker: Invoker, fan_out: FanOut
) -> Exchange:
    """Return the strategy of this name, one of `peer.config.EXCHANGES`.

    Args:
        name: of the strategy.
        traffic: puts and fetches gradients.
        rendezvous: this peer's.
        invoker: for what functions do.
        fan_out: tries that again where it fails.

    Raises:
        ConfigurationError: there is none.
    """
    if name == "all_gather":
        return AllGather(traffic, rendezvous)
    if name == "scatter_reduce":
        return ScatterReduce(traffic, rendezvous)
    if name == "in_function":
        return InFunction(traffic, rendezvous, invoker, fan_out)
    raise ConfigurationError(f"--exchange {name!r} is not known")
