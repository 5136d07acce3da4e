"""What a round's exchange takes, by strategy, gradient and peers, against the same bytes by bare HTTP.

peerless: `peer.exchange` as a run uses it, checksums, manifests, decoding and the fold included. Bare: the
same objects of random bytes by `http.client`, as many at once, in the same order, each peer waiting for the
others where it needs what they put. Every peer is a process with its own client; both sides take turns on one
server; ratios are of minima. Peers share this machine's cores, so many peers measure the cores.

    python benchmarks/exchange.py [--kind minio|nanio] [--quick] [--repetitions 5] [--directory DIR]

Then on emulated links (`shaped_network.py`): seconds of each strategy beside the one that `auto` takes after
its look at the store through such a link.

Prints tables and one JSON line with `ratio_to_raw` (the worst; goal: at most 1.25), `extra_memory_mb` (a
peer's peak beyond its own gradient and one decoded; goal: at most 64), `auto_to_best` (the worst; goal: at
most 1.10) and the host's facts. `in_function` reduces in a worker of the same process, without a gateway: its
memory and CPU are a function's, and its rows are no goal's.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from exchange_bare import BareExchange
from host import host_facts
from shaped_network import Network, shaped
from store import running_store

from peer import exchange
from peer.aggregation import Gradient
from peer.config import EXCHANGES, Liveness, RunStart
from peer.exchange import Exchange, choice
from peer.exchange.compressor import Compressor
from peer.exchange.traffic import Traffic
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.invokers import Invoker
from peer.learning.worker import Worker
from peer.membership import Membership
from peer.messages import AggregateReply, AggregateRequest, PeerManifest
from peer.records.phases import PhaseClock
from peer.rendezvous import Rendezvous
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import ServerKind
from peer.store.transfer import HttpTransfer

MEGABYTE = 1_000_000
PLAIN = [(3, 2), (3, 4), (3, 8), (3, 16), (100, 2), (100, 4), (100, 8), (512, 2), (512, 4)]
"""Megabytes of a gradient, and peers."""
QUICK = [(3, 2), (3, 4), (32, 4)]
NETWORKS = [Network(latency, rate) for latency in (0.001, 0.02, 0.08) for rate in (65e6, 1e9)]
SHAPED = (10, 4)
ALONE, PEERLESS, BARE = "alone", "peerless", "bare"
_ROUNDS_ALONE = 3
CHOSEN_FROM = ("all_gather", "scatter_reduce")
_SPAWN = multiprocessing.get_context("spawn")
_LONGEST_SECONDS = 900.0
_PATIENT = Liveness(heartbeat_seconds=1.0, peer_seconds=120.0, join_seconds=120.0)


@dataclass(frozen=True)
class Setting:
    """One row: who exchanges what, how, and where each peer finds the store."""

    strategy: str
    num_bytes: int
    addresses: list[StoreAddress]
    repetitions: int
    is_bare_too: bool

    @property
    def num_peers(self) -> int:
        """How many peers take part."""
        return len(self.addresses)


@dataclass(frozen=True)
class Taken:
    """The shortest round of each side, in seconds, and the most memory that a peer took beyond its own."""

    seconds: float
    bare_seconds: float
    extra_memory_mb: float


class AggregateHere:
    """The function `aggregate`, in the peer's own process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        transfer = HttpTransfer()
        self._worker = Worker(
            lambda remote: transfer.get(remote.url, remote.length),
            lambda url, encoded: transfer.put(url, encoded.chunks, encoded.length),
        )

    def readable(self, key: str) -> str:
        """Return a signed GET URL."""
        return self._store.sign_get(key, 3600)

    def writable(self, key: str) -> str:
        """Return a signed PUT URL."""
        return self._store.sign_put(key, 3600)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        """Return the worker's reply."""
        return self._worker.aggregate(request)


def measure(setting: Setting) -> Taken:
    """Return what the rounds of one setting took, each from when all peers begin until all are done."""
    barrier = _SPAWN.Barrier(setting.num_peers + 1)
    results: Any = _SPAWN.SimpleQueue()
    peers = [
        _SPAWN.Process(target=_guarded, args=(barrier, setting, rank, results), daemon=True)
        for rank in range(setting.num_peers)
    ]
    for peer in peers:
        peer.start()
    seconds: dict[str, list[float]] = {ALONE: [], PEERLESS: [], BARE: []}
    try:
        for side in schedule(setting):
            barrier.wait(_LONGEST_SECONDS)
            began = perf_counter()
            barrier.wait(_LONGEST_SECONDS)
            seconds[side].append(perf_counter() - began)
        extra_mb = max(results.get() for _ in peers)
    finally:
        for peer in peers:
            peer.join(10.0)
            peer.kill()
    best = {side: min(taken, default=float("nan")) for side, taken in seconds.items()}
    return Taken(best[PEERLESS], best[BARE], extra_mb)


def schedule(setting: Setting) -> list[str]:
    """Return whose turn it is in each round.

    Memory is measured before the bare side allocates any, in rounds that also open the connections.
    """
    sides = [PEERLESS, BARE] if setting.is_bare_too else [PEERLESS]
    return [ALONE] * _ROUNDS_ALONE + sides * setting.repetitions


def _guarded(barrier: Barrier, setting: Setting, rank: int, results: Any) -> None:
    try:
        results.put(_take_part(barrier, setting, rank))
    except BaseException:
        barrier.abort()
        raise


def _take_part(barrier: Barrier, setting: Setting, rank: int) -> float:
    """Exchange as one peer, side by side, and return the memory that it took beyond two gradients."""
    torch.set_num_threads(1)
    store = Store(setting.addresses[rank])
    run = f"{setting.strategy}-{setting.num_bytes}-{setting.num_peers}"
    membership = Membership(store, run, rank, _PATIENT)
    membership.claim(RunStart())
    rendezvous = Rendezvous(store, membership, run, 0, setting.num_peers, PhaseClock())
    strategy = _strategy(setting.strategy, store, rendezvous)
    bare = BareExchange(store, setting.strategy, run, rank, setting.num_peers, setting.num_bytes)
    manifest = PeerManifest(run, 0, 0, rank, membership.incarnation, "a" * 64, "")
    gradient = Gradient(torch.randn(setting.num_bytes // 4), torch.empty(0), torch.empty(0).long(), 64)
    before, peak = _memory_bytes("VmRSS"), 0
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for number, side in enumerate(schedule(setting)):
        mine = replace(gradient, num_samples=64 + rank)

        def take_turn(number: int = number, side: str = side, mine: Gradient = mine) -> list[str]:
            if side == BARE:
                return bare.round(number)
            return strategy.run(mine, _of_round(manifest, number)).objects

        left = _timed(barrier, take_turn)
        if side == ALONE:
            peak = _memory_bytes("VmHWM")
        gradient.values.normal_()
        # everyone has read it, and no disk has to hold all rounds
        store.delete(left)
    bare.close()
    membership.leave("finished")
    return (peak - before - gradient.values.nbytes) / MEGABYTE


def _timed(barrier: Barrier, action: Callable[[], list[str]]) -> list[str]:
    barrier.wait(_LONGEST_SECONDS)
    result = action()
    barrier.wait(_LONGEST_SECONDS)
    return result


def _of_round(manifest: PeerManifest, number: int) -> PeerManifest:
    return PeerManifest(
        manifest.run, 0, number, manifest.peer, manifest.incarnation, manifest.weights_sha256, manifest.cpu
    )


def _strategy(name: str, store: Store, rendezvous: Rendezvous) -> Exchange:
    fan_out = FanOut(1, RetryPolicy(max_failures=0), lambda _: None)
    traffic = Traffic(store, Compressor())
    return exchange.create(name, traffic, rendezvous, cast(Invoker, AggregateHere(store)), fan_out)


def _memory_bytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def against_bare(store: Store, sizes: list[tuple[int, int]], repetitions: int) -> dict[str, float]:
    """Print a row a strategy and size; return the worst ratio and memory of those that peers follow alone."""
    print(f"{'MB':>5} {'peers':>5} {'strategy':15} {'ms':>8} {'bare':>8} {'ratio':>6} {'extra MB':>8}")
    worst = {"ratio_to_raw": 0.0, "extra_memory_mb": 0.0}
    for megabytes, num_peers in sizes:
        for strategy in EXCHANGES:
            addresses = [store.address] * num_peers
            taken = measure(Setting(strategy, megabytes * MEGABYTE, addresses, repetitions, True))
            ratio = taken.seconds / taken.bare_seconds
            print(
                f"{megabytes:5} {num_peers:5} {strategy:15} {1e3 * taken.seconds:8.0f} "
                f"{1e3 * taken.bare_seconds:8.0f} {ratio:6.2f} {taken.extra_memory_mb:8.0f}",
                flush=True,
            )
            if strategy in CHOSEN_FROM:
                worst["ratio_to_raw"] = max(worst["ratio_to_raw"], ratio)
                worst["extra_memory_mb"] = max(worst["extra_memory_mb"], taken.extra_memory_mb)
            store.delete([key for key, _ in store.list("")])
    return {name: round(value, 3) for name, value in worst.items()}


def on_links(store: Store, networks: list[Network], repetitions: int) -> dict[str, float]:
    """Print a row a network; return how much longer than the best, at worst, what `auto` takes is."""
    megabytes, num_peers = SHAPED
    print(f"\nemulated links, {megabytes} MB, {num_peers} peers")
    worst = 0.0
    for network in networks:
        with shaped(store.address.endpoint, network, num_peers) as endpoints:
            addresses = [replace(store.address, endpoint=endpoint) for endpoint in endpoints]
            chosen, _ = choice.choose(Store(addresses[0]), "probe", megabytes * MEGABYTE, num_peers)
            seconds = {
                name: measure(Setting(name, megabytes * MEGABYTE, addresses, repetitions, False)).seconds
                for name in CHOSEN_FROM
            }
        best = min(seconds.values())
        worst = max(worst, seconds[chosen] / best)
        row = "  ".join(f"{name} {1e3 * taken:.0f} ms" for name, taken in seconds.items())
        print(
            f"{network!s:18} {row}  auto takes {chosen}: {seconds[chosen] / best:.2f} of the best", flush=True
        )
    return {"auto_to_best": round(worst, 3)}


def main() -> None:
    """Print the tables on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", type=ServerKind, default=ServerKind.MINIO)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small gradients, few peers, two networks")
    parser.add_argument("--directory", help="where the server keeps its data; /dev/shm leaves the disk out")
    options = parser.parse_args()
    sizes, networks = (QUICK, NETWORKS[::3]) if options.quick else (PLAIN, NETWORKS)
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as data_dir,
        redirect_stdout(sys.stderr),
        running_store(options.kind, Path(data_dir)) as store,
    ):
        figures = against_bare(store, sizes, options.repetitions)
        figures |= on_links(store, networks, max(2, options.repetitions // 2))
    result = {"benchmark": "exchange", "server": str(options.kind), **figures, "host": host_facts()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
