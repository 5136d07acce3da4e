"""What is simulated: a platform, the work of a run, and how long each part of it takes.

Nothing of this is a measurement. `Service` comes from one (`calibration`), or is assumed (`scenarios`).
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

from peer.experiments import cost


@dataclass(frozen=True)
class Samples:
    """A service time: what was measured of it, in seconds, of which one is drawn each time."""

    seconds: tuple[float, ...]

    @staticmethod
    def always(seconds: float) -> "Samples":
        """Return a service time that never varies."""
        return Samples((seconds,))

    def draw(self, randomness: random.Random) -> float:
        """Return one of them, each as likely."""
        return self.seconds[int(randomness.random() * len(self.seconds))]

    def scaled(self, factor: float) -> "Samples":
        """Return the same, this many times as long."""
        return Samples(tuple(seconds * factor for seconds in self.seconds))

    @property
    def mean(self) -> float:
        """The mean, in seconds."""
        return statistics.fmean(self.seconds)


NOTHING = Samples.always(0.0)


@dataclass(frozen=True)
class Service:
    """How long the parts of a round take where nothing is in their way.

    Attributes:
        compute: of one batch, on a whole processor.
        transfer: of one invocation: its weights and samples in, its gradient out.
        call: of one invocation outside the function: gateway, connection, result into the peer.
        fold: of one result into a peer's sum.
        publish: a round's weights, and what is evaluated of them.
        send: a peer's gradient into the store.
        receive: one other peer's gradient out of it, and folded.
        update: the optimizer's step.
    """

    compute: Samples
    transfer: Samples = NOTHING
    call: Samples = NOTHING
    fold: Samples = NOTHING
    publish: Samples = NOTHING
    send: Samples = NOTHING
    receive: Samples = NOTHING
    update: Samples = NOTHING


@dataclass(frozen=True)
class Platform:
    """Where it runs.

    Attributes:
        slots: replicas that may run at once, None for as many as are asked for.
        cores: that peers, functions, store and gateway share, None where each has its own.
        share: of a processor that a function has.
        cold_start_seconds: until a new replica takes its first request.
        warm: replicas that are there at the begin; None for all.
        streams: transfers that the store serves at once, None for any number.
    """

    slots: int | None = None
    cores: int | None = None
    share: float = 1.0
    cold_start_seconds: float = 0.0
    warm: int | None = None
    streams: int | None = None


@dataclass(frozen=True)
class Work:
    """What has to be done.

    Attributes:
        peers: how many.
        rounds: each with one exchange.
        invocations: of a peer and round: how many batches each has.
        in_flight: how many of them a peer has on their way at once, None for all.
        is_local: whether peers compute their batches themselves, in turn.
    """

    peers: int
    rounds: int
    invocations: tuple[int, ...]
    in_flight: int | None = None
    is_local: bool = False


def packed(num_batches: int, packing: int) -> tuple[int, ...]:
    """Return how many batches each invocation has."""
    whole, rest = divmod(num_batches, packing)
    return (*repeat(packing, whole), *([rest] if rest else []))


@dataclass
class Simulated:
    """What came of it. Every figure of it is simulated.

    Attributes:
        seconds: from the first round's begin until the last peer is done.
        compute_seconds: of each peer and round, from the first invocation until the last result is folded.
        round_seconds: of each peer and round.
        durations: of each invocation inside its function, cold start included: what is billed.
        cold_starts: how many.
    """

    seconds: float = 0.0
    compute_seconds: list[float] = field(default_factory=list)
    round_seconds: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    cold_starts: int = 0

    @property
    def mean_round_seconds(self) -> float:
        """Of all peers and rounds."""
        return statistics.fmean(self.round_seconds)

    @property
    def mean_compute_seconds(self) -> float:
        """Of all peers and rounds."""
        return statistics.fmean(self.compute_seconds)


def busy_seconds(batches: Sequence[float], share: float) -> float:
    """Return how long a function computes these batches, given in seconds of a whole processor."""
    return cost.function_seconds(sum(batches), 0.0, share)
