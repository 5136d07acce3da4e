"""How far peers may be apart: in step, or some rounds (`peer.exchange.bounded_staleness`)."""

from dataclasses import dataclass, field
from typing import Protocol

from peer.aggregation import Gradient
from peer.exchange.interface import Exchange
from peer.learning.optimizers import FlatOptimizer
from peer.messages import PeerManifest


@dataclass(frozen=True)
class Step:
    """What one peer's step of a round is made of, and what it knows of the others by then.

    Attributes:
        mean: of the gradients that are in it.
        own: this peer's manifest of the round, as it was published.
        manifests: of these gradients, by round and peer; of all peers and this round if they are in step.
        decided: the rounds, oldest first, of which all peers read the last manifest in this one: each has the
            manifests of all peers, in peer order.
        read_before: every peer has read all that is of rounds before this one.
        objects: keys of what this peer has stored for the others in this round.
        uncompressed_bytes: as in `Exchanged`.
        send_seconds: as in `Exchanged`.
        staleness: how many of the others' gradients were 0, 1, 2 … rounds late; empty if peers are in step.
        lead: how many rounds this peer was ahead of the slowest one, as far as it could see.
    """

    mean: Gradient
    own: PeerManifest
    manifests: list[PeerManifest]
    decided: list[list[PeerManifest]]
    read_before: int
    objects: list[str]
    uncompressed_bytes: int
    send_seconds: float
    staleness: list[int] = field(default_factory=list)
    lead: int = 0


class Pace(Protocol):
    """One way to keep peers together; one object a peer and generation."""

    def step(self, own: Gradient, manifest: PeerManifest, *, is_meeting: bool) -> Step:
        """Return what this peer's step of a round is made of.

        Args:
            own: this peer's gradient; its tensors belong to the pace from now on.
            manifest: this peer's manifest, without the parts that are stored now.
            is_meeting: wait until no gradient of this round or an earlier one is missing.

        Raises: as `Exchange.run`.
        """

    def meet(self, optimizer: FlatOptimizer, step: Step) -> list[str]:
        """Give all peers one state, after the step of a meeting, and return the keys of what that stored.

        Args:
            optimizer: its parameters and moments become the mean of all peers', in place.
            step: what was taken; the buffers and counters of its mean likewise.

        Raises: as `Exchange.run`.
        """


class InStep:
    """All peers take the same step in every round, so that every round ends with a meeting.

    Args:
        exchange: how they come to the mean of their gradients.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def step(self, own: Gradient, manifest: PeerManifest, *, is_meeting: bool) -> Step:
        """Return the mean of the gradients of all peers; see `Pace.step`."""
        exchanged = self._exchange.run(own, manifest)
        return Step(
            mean=exchanged.mean,
            own=exchanged.manifests[manifest.peer],
            manifests=exchanged.manifests,
            decided=[exchanged.manifests],
            read_before=manifest.round,
            objects=exchanged.objects,
            uncompressed_bytes=exchanged.uncompressed_bytes,
            send_seconds=exchanged.send_seconds,
        )

    def meet(self, optimizer: FlatOptimizer, step: Step) -> list[str]:
        """Do nothing: the state of all peers is one after each step; see `Pace.meet`."""
        return []
