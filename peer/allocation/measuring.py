"""What invocations of one batch take, seen from the peer: what a plan is made from."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peer.aggregation import Gradient
from peer.allocation.plans import Measured, Passes
from peer.config import current_versions
from peer.invocations.invocation import Stored
from peer.invocations.invokers import Invoker
from peer.messages import (
    AggregateReply,
    AggregateRequest,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    Usage,
)

SMALL_SHARE = 8
"""The small passes are of this part of a batch: far enough from whole ones for a line through both."""

MOST_TRIES = 4
"""Invocations of one size until a warm replica has answered: as many replicas may be cold as there are."""

_OF_A_BATCH = ("preprocess", "compute")


@dataclass(frozen=True)
class Seen:
    """One invocation of one batch.

    Attributes:
        samples: of its largest pass.
        data_bytes: of the stored parts that it is taken from.
        seconds: to its checked result.
        usage: what it used.
    """

    samples: int
    data_bytes: int
    seconds: float
    usage: Usage

    def phase(self, *names: str) -> float:
        """Return the seconds of these phases inside the function."""
        return sum(self.usage.phase_seconds.get(name, 0.0) for name in names)


class Observing:
    """Invokes, and keeps what every gradient took.

    Args:
        inner: invokes.
        clock: seconds, never backwards.
    """

    def __init__(self, inner: Invoker, clock: Callable[[], float] = time.perf_counter) -> None:
        self._inner = inner
        self._clock = clock
        self.seen: list[Seen] = []

    def readable(self, key: str) -> str:
        """See `Invoker.readable`."""
        return self._inner.readable(key)

    def writable(self, key: str) -> str:
        """See `Invoker.writable`."""
        return self._inner.writable(key)

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        """See `Invoker.gradient`; what is kept includes the time of fetching the gradient."""
        began = self._clock()
        reply, stored = self._inner.gradient(request, result_key)

        def fetch() -> Gradient:
            gradient = stored.fetch()
            samples = min(request.micro_batch or gradient.num_samples, gradient.num_samples)
            data_bytes = sum(part.length for part in request.data.parts)
            self.seen.append(Seen(samples, data_bytes, self._clock() - began, reply.usage))
            return gradient

        return reply, Stored(fetch)

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """See `Invoker.evaluate`."""
        return self._inner.evaluate(request)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """See `Invoker.aggregate`."""
        return self._inner.aggregate(request)


def is_warm(seen: Sequence[Seen], samples: int) -> bool:
    """Return whether a replica that was not new has computed passes of this size."""
    return any(each.samples == samples and not each.usage.is_cold_start for each in seen)


def measured(seen: Sequence[Seen], gateway: str, known: Sequence[Passes] = ()) -> Measured:
    """Return what was seen as one profile: the shortest of warm invocations, for others waited for the CPU.

    Args:
        seen: invocations of one batch each, at least one.
        gateway: where.
        known: passes that were measured before; of other sizes, they stay.
    """
    passes = {each.samples: each for each in known}
    passes |= {samples: _passes(seen, samples) for samples in {each.samples for each in seen}}
    warm = [each for each in seen if not each.usage.is_cold_start] or list(seen)
    return Measured(
        gateway=gateway,
        versions=current_versions(),
        passes=[passes[samples] for samples in sorted(passes)],
        fetch_seconds=max(each.phase("fetch") for each in seen),
        upload_seconds=min(each.phase("upload") for each in warm),
        request_seconds=max(0.0, min(each.seconds - sum(each.usage.phase_seconds.values()) for each in warm)),
        cold_seconds=_cold_seconds(seen),
        load_seconds=max(each.phase("load_model") for each in seen),
        data_bytes=max(each.data_bytes for each in seen),
    )


def _passes(seen: Sequence[Seen], samples: int) -> Passes:
    same = [each for each in seen if each.samples == samples]
    warm = [each for each in same if not each.usage.is_cold_start] or same
    return Passes(
        samples=samples,
        batch_seconds=min(each.phase(*_OF_A_BATCH) for each in warm),
        # a replica that has done more before shows what that took
        working_set_bytes=min(each.usage.working_set_bytes for each in same),
    )


def _cold_seconds(seen: Sequence[Seen]) -> float:
    """Return what a cold start took beyond a warm invocation of the same size, 0 if none was seen."""
    differences = [
        cold.seconds - warm.seconds
        for cold in seen
        for warm in seen
        if cold.usage.is_cold_start and not warm.usage.is_cold_start and cold.samples == warm.samples
    ]
    return max(0.0, *differences) if differences else 0.0
