"""Which exchange strategy suits a run: a small model of a round's time, and a look at the store."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from peer.exchange.parts import parts_for
from peer.store import keys
from peer.store.ahead import AT_ONCE
from peer.store.s3 import Store

_PROBE_BYTES = 8 << 20
_LATENCY_PROBES = 5


@dataclass(frozen=True)
class Link:
    """The way to a store, as one peer that is alone sees it."""

    latency_seconds: float
    """Of one small request."""

    bytes_per_second: float
    """Of one large object, up or down."""

    def __str__(self) -> str:
        return f"{1e3 * self.latency_seconds:.1f} ms and {self.bytes_per_second / 1e6:.0f} MB/s"


@dataclass(frozen=True)
class Estimate:
    """What one strategy costs a peer in one round, waiting for slower peers left out."""

    strategy: str
    seconds: float
    up_bytes: float
    down_bytes: float
    waits: int
    """Requests that have to follow one another."""

    def __str__(self) -> str:
        megabytes = f"{self.up_bytes / 1e6:.2f} MB up, {self.down_bytes / 1e6:.2f} MB down"
        return f"{self.strategy}: {1e3 * self.seconds:.0f} ms a round ({megabytes}, {self.waits} waits)"


def estimates(
    gradient_bytes: int, num_peers: int, link: Link, compressed_bytes: int | None = None
) -> list[Estimate]:
    """Return an estimate a strategy, the fastest first; of equal ones the simpler.

    With a codec a gradient has `compressed_bytes`, but what scatter-reduce has reduced still its whole size.

    `in_function` is not among them: it moves as many bytes one after the other, and pays only where functions
    are nearer to the store than peers are, which a peer cannot measure.

    Each asks whether its rank is still its own before it puts a manifest. All-gather puts its gradient and a
    manifest, in one object if the gradient is one part; it reads the first other peer's, then the rest, some
    at once. Scatter-reduce does so with one part of P of each, puts what it reduced and a manifest of that,
    and reads P-1 manifests and parts once more (`benchmarks/exchange.py` compares).
    """
    others = num_peers - 1
    sent = gradient_bytes if compressed_bytes is None else compressed_bytes
    part, reduced = sent / num_peers, gradient_bytes / num_peers
    manifests = 1 + _steps(others - 1)
    gather = 2 + manifests if parts_for(gradient_bytes) == 1 else 3 + manifests + 1
    steps = _steps(others) + 2 + manifests + 1 + 3 + 2 * _steps(others)
    ways = [
        ("all_gather", float(sent), float(others * sent), gather),
        ("scatter_reduce", others * part + reduced, others * (part + reduced), steps),
    ]
    found = [
        Estimate(
            strategy,
            seconds=waits * link.latency_seconds + (up + down) / link.bytes_per_second,
            up_bytes=up,
            down_bytes=down,
            waits=waits,
        )
        for strategy, up, down, waits in ways
    ]
    return sorted(found, key=lambda estimate: estimate.seconds)


def choose(
    store: Store, run: str, gradient_bytes: int, num_peers: int, compressed_bytes: int | None = None
) -> tuple[str, str]:
    """Return the strategy that a run should take over this store, and the reason in one line for people."""
    link = probe(store, run)
    best, *others = estimates(gradient_bytes, num_peers, link, compressed_bytes)
    return best.strategy, f"{best}, over {link}; {'; '.join(map(str, others))}"


def probe(store: Store, run: str, clock: Callable[[], float] = time.perf_counter) -> Link:
    """Return how the store answers now: the best of some small requests, one large object up and down.

    Takes some latencies and 16 MiB of traffic; the object that it needs is removed again.
    """
    key = keys.probe(run)

    def seconds(action: Callable[[], object]) -> float:
        began = clock()
        action()
        return clock() - began

    try:
        store.put_bytes(key, b"peerless")
        latency = min(seconds(lambda: store.get(key)) for _ in range(_LATENCY_PROBES))
        up = seconds(lambda: store.put_bytes(key, bytes(_PROBE_BYTES)))
        down = seconds(lambda: store.get(key))
    finally:
        store.delete([key])
    return Link(latency, 2 * _PROBE_BYTES / max(up + down - 2 * latency, 1e-6))


def _steps(requests: int) -> int:
    """Return how often so many requests wait, some at once."""
    return -(-requests // AT_ONCE)
