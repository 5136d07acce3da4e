"""Functions' memory limits, raised while a run goes on: by peer 0 at the gateway, by others through it."""

from dataclasses import dataclass
from typing import Any, Protocol

from peer.config import GatewayAddress
from peer.errors import FunctionMissing, FunctionRefused, GatewayDenied, PeerlessError
from peer.gateway import Gateway, specification_of
from peer.membership import Membership
from peer.sizes import mib, parse_size, quantity


class LimitHeld(PeerlessError):
    """A limit stays as it is; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Rise:
    """A function's memory limit, before and after it was raised."""

    function: str
    before_bytes: int
    after_bytes: int


class Limits(Protocol):
    """How a peer comes to more memory for a function."""

    def raise_above(self, function: str, ran_out_bytes: int) -> Rise | None:
        """Return by how much the limit rises, None if it has, or somebody else has been asked for it.

        Args:
            function: which.
            ran_out_bytes: the limit of the replica that ran out, 0 if it is not known.

        Raises:
            LimitHeld: it does not.
            GatewayUnreachable: it may, later.
        """

    def begin(self) -> None:
        """Begin a round: what was asked for in the last one is needed no more."""


class GatewayLimits:
    """Raises limits by the gateway's update call, which replaces replicas: of all peers, only peer 0 does.

    Everything else of a deployment stays as it was, and the limit stays when the run has ended.

    Args:
        address: of the gateway; without a password it cannot be asked.
        largest_bytes: what no limit is raised above, 0 to raise none.
    """

    def __init__(self, address: GatewayAddress, largest_bytes: int) -> None:
        self.address = address
        self._largest_bytes = largest_bytes

    def of(self, function: str) -> int:
        """Return a function's limit in bytes, 0 if it has none or we may not ask.

        Raises:
            FunctionError: the gateway cannot be asked.
        """
        if not self.address.password:
            return 0
        return limit_of(Gateway(self.address).describe(function))

    def raise_above(self, function: str, ran_out_bytes: int) -> Rise | None:
        """Double the limit, up to the largest; see `Limits.raise_above`."""
        if not self._largest_bytes:
            raise LimitHeld(f"the memory limit of {function} may not rise (--largest-memory allows it)")
        if not self.address.password:
            raise LimitHeld(f"the memory limit of {function} cannot rise without the gateway's password")
        gateway = Gateway(self.address)
        try:
            description = gateway.describe(function)
            before_bytes = limit_of(description)
            if 0 < ran_out_bytes < before_bytes:
                return None
            after_bytes = self._next(function, before_bytes)
            gateway.update(with_memory(description, after_bytes))
        except (FunctionMissing, FunctionRefused, GatewayDenied) as error:
            raise LimitHeld(f"the memory limit of {function} cannot rise: {error}") from error
        return Rise(function, before_bytes, after_bytes)

    def begin(self) -> None:
        """Do nothing: nobody was asked."""

    def _next(self, function: str, before_bytes: int) -> int:
        if not before_bytes:
            raise LimitHeld(f"{function} has no memory limit at the gateway that could rise")
        after_bytes = min(2 * before_bytes, self._largest_bytes)
        if after_bytes <= before_bytes:
            raise LimitHeld(
                f"the memory limit of {function} is {mib(before_bytes)} already, "
                f"and --largest-memory is {mib(self._largest_bytes)}"
            )
        return after_bytes


class LimitsByPeerZero:
    """Asks peer 0 for a higher limit, in this peer's member object; it looks there while it waits for us.

    Args:
        membership: this peer's.
        largest_bytes: as peer 0 has it.
    """

    def __init__(self, membership: Membership, largest_bytes: int) -> None:
        self._membership = membership
        self._largest_bytes = largest_bytes

    def raise_above(self, function: str, ran_out_bytes: int) -> Rise | None:
        """Ask, and return None; see `Limits.raise_above`."""
        if not 0 < ran_out_bytes < self._largest_bytes:
            raise LimitHeld(
                f"the memory limit of {function} is {mib(ran_out_bytes) if ran_out_bytes else 'not known'}, "
                f"and --largest-memory is {mib(self._largest_bytes) if self._largest_bytes else 'not given'}"
            )
        self._membership.ask_for_memory(function, ran_out_bytes)
        return None

    def begin(self) -> None:
        """Ask no more; see `Limits.begin`."""
        self._membership.ask_for_no_memory()


def with_memory(description: dict[str, Any], limit_bytes: int) -> dict[str, Any]:
    """Return what deploys a function as it is described, but with this memory limit."""
    specification = specification_of(description)
    limits = dict(specification.get("limits") or {})
    return {**specification, "limits": limits | {"memory": quantity(limit_bytes)}}


def limit_of(description: dict[str, Any]) -> int:
    """Return the memory limit of a function that is so described, 0 if it has none."""
    text = (description.get("limits") or {}).get("memory")
    return parse_size(text) if text else 0
