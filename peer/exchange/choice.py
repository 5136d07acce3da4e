"""Which exchange strategy suits a run: a small model of a round's time, and a look at the store."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from peer.exchange.parts import parts_for
from peer.store import keys
from peer.store.ahead import AT_ONCE, Transfers
from peer.store.s3 import Store

_PROBE_BYTES = 8 << 20
_LATENCY_PROBES = 5
_RATE_PROBES = 2


@dataclass(frozen=True)
class Link:
    """The way to a store, as one peer that is alone sees it; a store takes longer to write than to read.

    Attributes:
        put_seconds: of one small object.
        get_seconds: likewise.
        up_bytes_per_second: of one large object, its latency left out.
        down_bytes_per_second: likewise.
        more_put_seconds: what each further one at the same time adds: little to a latency, much to a store
            that shares the peer's cores.
        more_get_seconds: likewise.
    """

    put_seconds: float
    get_seconds: float
    up_bytes_per_second: float
    down_bytes_per_second: float
    more_put_seconds: float = 0.0
    more_get_seconds: float = 0.0

    def __str__(self) -> str:
        up, down = self.up_bytes_per_second / 1e6, self.down_bytes_per_second / 1e6
        put, get = 1e3 * self.put_seconds, 1e3 * self.get_seconds
        return f"{put:.1f} ms and {up:.0f} MB/s up, {get:.1f} ms and {down:.0f} MB/s down"


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
    at once. Scatter-reduce does so with a share for each other peer, then with the share that it reduced
    (`benchmarks/exchange.py`).
    """
    others = num_peers - 1
    sent = gradient_bytes if compressed_bytes is None else compressed_bytes
    part, reduced = sent / num_peers, gradient_bytes / num_peers
    # requests, those in one number at once: is the rank still this peer's, the first manifest, the rest
    manifests = [1, 1, max(0, others - 1)]
    is_enclosed = parts_for(gradient_bytes) == 1
    is_share_enclosed = parts_for(gradient_bytes // num_peers) == 1
    ways = [
        _estimate(
            "all_gather",
            link,
            up_bytes=sent,
            down_bytes=others * sent,
            puts=[1] if is_enclosed else [1, 1],
            gets=manifests if is_enclosed else [*manifests, 1],
        ),
        _estimate(
            "scatter_reduce",
            link,
            up_bytes=others * part + reduced,
            down_bytes=others * (part + reduced),
            puts=[others, 1] if is_share_enclosed else [others, 1, 1, 1],
            gets=[*manifests, 1, others] if is_share_enclosed else [*manifests, 1, 1, others, others],
        ),
    ]
    return sorted(ways, key=lambda estimate: estimate.seconds)


def _estimate(
    strategy: str, link: Link, up_bytes: float, down_bytes: float, puts: list[int], gets: list[int]
) -> Estimate:
    put_waits, get_waits = sum(map(_steps, puts)), sum(map(_steps, gets))
    waited_seconds = put_waits * link.put_seconds + (sum(puts) - put_waits) * link.more_put_seconds
    waited_seconds += get_waits * link.get_seconds + (sum(gets) - get_waits) * link.more_get_seconds
    moved_seconds = up_bytes / link.up_bytes_per_second + down_bytes / link.down_bytes_per_second
    return Estimate(strategy, waited_seconds + moved_seconds, up_bytes, down_bytes, put_waits + get_waits)


def choose(
    store: Store, run: str, gradient_bytes: int, num_peers: int, compressed_bytes: int | None = None
) -> tuple[str, str]:
    """Return the strategy that a run should take over this store, and the reason in one line for people."""
    link = probe(store, run)
    best, *others = estimates(gradient_bytes, num_peers, link, compressed_bytes)
    return best.strategy, f"{best}, over {link}; {'; '.join(map(str, others))}"


def probe(store: Store, run: str, clock: Callable[[], float] = time.perf_counter) -> Link:
    """Return how the store answers now: the best of some small requests and of a few large ones.

    Takes some latencies and 32 MiB of traffic; the objects that it needs are removed again.
    """
    probes, large, transfers = (
        [keys.probe(run, each) for each in range(AT_ONCE)],
        bytes(_PROBE_BYTES),
        Transfers(),
    )
    key = probes[0]

    def shortest(times: int, action: Callable[[], object]) -> float:
        seconds = []
        for _ in range(times):
            began = clock()
            action()
            seconds.append(clock() - began)
        return min(seconds)

    def put(key: str) -> None:
        store.put_bytes(key, b"peerless")

    try:
        one_put = shortest(_LATENCY_PROBES, lambda: put(key))
        one_get = shortest(_LATENCY_PROBES, lambda: store.get(key))
        puts = shortest(_LATENCY_PROBES, lambda: transfers.map(put, probes))
        gets = shortest(_LATENCY_PROBES, lambda: transfers.map(store.get, probes))
        up = shortest(_RATE_PROBES, lambda: store.put_bytes(key, large))
        down = shortest(_RATE_PROBES, lambda: store.get(key))
    finally:
        store.delete(probes)
    more_put, more_get = (
        max(0.0, many - one) / (AT_ONCE - 1) for many, one in ((puts, one_put), (gets, one_get))
    )
    return Link(one_put, one_get, _rate(up - one_put), _rate(down - one_get), more_put, more_get)


def _rate(seconds: float) -> float:
    return _PROBE_BYTES / max(seconds, 1e-6)


def _steps(requests: int) -> int:
    """Return how often so many requests wait, some at once."""
    return -(-requests // AT_ONCE)
