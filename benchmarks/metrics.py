"""What metrics cost, as a share of the CPU time of a round of a small training (goal: less than 1 %).

The share is counted, not seen as a difference: what the peers' and the gateway's own metrics code takes for
the calls of a round, driven by a real training's records and numbers of requests, and for being scraped every
5 seconds; to what all peers, functions, the gateway and the store took for a round of that training. Beside
it, trainings with metrics served and scraped and trainings with `--no-metrics`, in turn: one differs from the
next by more than metrics cost, so their ratio only shows that nothing large was forgotten. Those without
count all the same and serve nothing.

    python benchmarks/metrics.py [--pairs 3] [--rounds 60] [--quick]

Prints a table, and one JSON line with `metrics_to_round`, the pairs' `paired_ratio` with `paired_noise`, by
which trainings without metrics differ among themselves, and the host's facts. Seconds are of CPU time. How
often a round is scraped follows from the shortest rounds: a machine that is busy all the time overstates it.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from epoch_peerless import Addresses, running_platform
from epoch_setting import Setting, write_samples
from host import host_facts
from prometheus_client.parser import text_string_to_metric_families

from localfaas.stats import FunctionStats
from peer import runs
from peer.config import Liveness, RunConfig, RunStart
from peer.invocations.invokers import FunctionInvoker
from peer.local.peers import train_locally
from peer.messages import MemberRecord, ModelSpec
from peer.metrics import MetricsServer, PeerMetrics
from peer.records.rounds import RoundRecord
from peer.session import Surroundings
from peer.store import keys
from peer.store.s3 import Store
from peer.store.servers import LOOPBACK

NUM_PEERS = 4
SCRAPE_INTERVAL_SECONDS = 5.0
_NUM_SAMPLES = 4_096
_WARM_ROUNDS = 2  # replicas start in them
_FEW_ROUNDS = 4
_LEAST_ROUNDS = 12
_REPETITIONS = 7
_NUM_SCRAPES = 300
_NUM_INVOCATIONS = 20_000
_SCRAPER = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept-Encoding": "gzip"})
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(request).read()
"""


@dataclass
class Training:
    """What is seen of one training.

    Attributes:
        config: the run's, with its weights' length.
        records: of every peer, as they came.
        pages: each peer's metrics, late in the run; none without metrics.
        marks: time and CPU seconds of all processes by the number of a round, when the first peer ended it.
    """

    config: RunConfig
    records: list[RoundRecord] = field(default_factory=list)
    pages: dict[int, str] = field(default_factory=dict)
    marks: dict[int, tuple[float, float]] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """Return what a round took, without those in which replicas start and peers end."""
        first, last = min(self.marks), max(self.marks)
        return (self.marks[last][1] - self.marks[first][1]) / (last - first)

    def shortest_seconds(self) -> float:
        """Return how long a round was in the shortest few; what else runs here lengthens the others."""
        times = [self.marks[number][0] for number in sorted(self.marks)]
        return min(
            (end - start) / _FEW_ROUNDS for start, end in zip(times, times[_FEW_ROUNDS:], strict=False)
        )


def train(addresses: Addresses, num_rounds: int, *, is_measured: bool) -> Training:
    """Return one training; with metrics, the peers and the gateway are scraped as Prometheus would."""
    config = RunConfig(
        run=f"metrics-{uuid.uuid4().hex[:8]}",
        dataset="mnist",
        num_peers=NUM_PEERS,
        rounds=num_rounds,
        batch_size=64,
        batches_per_round=2,
        batches_per_invocation=1,
        initial_weights="",
        initial_weights_bytes=0,
        model=ModelSpec("cnn"),
        evaluate_every=0,
        checkpoint_every=20,
    )
    store = Store(addresses.store)
    invoker = FunctionInvoker(store, addresses.gateway, config.invocation_seconds)
    with tempfile.TemporaryDirectory() as directory:
        surroundings = Surroundings(
            addresses.store,
            addresses.gateway,
            Liveness(),
            120.0,
            Path(directory),
            metrics_address=LOOPBACK if is_measured else "",
        )
        training = Training(runs.create(store, config, invoker, lambda _: None))
        watch = _Watch(training, store, addresses.gateway.url)
        train_locally(surroundings, training.config, RunStart(), watch.take)
    runs.remove(store, config.run)
    return training


class _Watch:
    """Notes a training's CPU time and records, and scrapes it where it serves metrics."""

    def __init__(self, training: Training, store: Store, gateway_url: str) -> None:
        self._training = training
        self._store = store
        self._gateway_page = f"{gateway_url}/metrics"
        self._scraped_at = time.monotonic()
        self._urls: dict[int, str] = {}

    def take(self, record: RoundRecord) -> None:
        training, rounds = self._training, self._training.config.rounds
        training.records.append(record)
        if record.peer not in self._urls:
            member = self._store.get_message(keys.member(record.run, record.peer), MemberRecord)
            self._urls[record.peer] = member.metrics_url
        if _WARM_ROUNDS <= record.round < rounds - 1 and record.round not in training.marks:
            training.marks[record.round] = (time.perf_counter(), _cpu_seconds_of_children())
        if not self._urls[record.peer]:
            return
        if record.round >= rounds * 3 // 4 and record.peer not in training.pages:
            training.pages[record.peer] = requests.get(self._urls[record.peer], timeout=30).text
        if time.monotonic() - self._scraped_at >= SCRAPE_INTERVAL_SECONDS:
            self._scraped_at = time.monotonic()
            for url in (self._gateway_page, *self._urls.values()):
                with suppress(requests.ConnectionError):  # a peer may have ended since
                    requests.get(url, timeout=30)


def _cpu_seconds_of_children() -> float:
    """Return what the store, the gateway, its replicas and the peers have taken; this process started all."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def peer_counting_seconds(training: Training, peer: int) -> float:
    """Return the CPU seconds a round in which one peer's metrics are told of all that it did."""
    requests_per_round = _requests_per_round(training.pages[peer])
    own = [record for record in training.records if record.peer == peer]
    metrics = PeerMetrics(training.config, RunStart(), peer)

    def all_rounds() -> None:
        for record in own:
            for operation, num_requests in requests_per_round.items():
                for _ in range(num_requests):
                    metrics.add_request(operation, 0.004, None)
                    metrics.add_transfer(operation, 1_000)  # of some requests none is told
            metrics.add_round(record)

    return _least_cpu_seconds(all_rounds) / len(own)


def _requests_per_round(page: str) -> Counter[str]:
    """Return how many requests to the store a peer made in a round by operation, rounded up."""
    values = {
        (sample.name, sample.labels.get("operation", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    num_rounds = values["peerless_rounds_total", ""]
    found = {key[1]: value for key, value in values.items() if key[0] == "peerless_store_requests_total"}
    return Counter({operation: int(-(-value // num_rounds)) for operation, value in found.items()})


def gateway_counting_seconds() -> float:
    """Return the CPU seconds of what `localfaas.invocation` counts of one invocation."""
    stats = FunctionStats()

    def all_invocations() -> None:
        for _ in range(_NUM_INVOCATIONS):
            started_at = time.perf_counter()
            stats.num_started += 1
            stats.num_in_flight += 1
            stats.num_in_flight -= 1
            stats.durations_by_code[str(200)].observe(time.perf_counter() - started_at)

    return _least_cpu_seconds(all_invocations) / _NUM_INVOCATIONS


def _least_cpu_seconds(action: Callable[[], None]) -> float:
    taken = []
    for _ in range(_REPETITIONS):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return min(taken)


def peer_scrape_seconds(training: Training) -> float:
    """Return the CPU seconds of one scrape of a peer that has trained."""
    metrics = PeerMetrics(training.config, RunStart(), 0)
    for record in training.records:
        metrics.add_round(record)
    server = MetricsServer(metrics, LOOPBACK, f"http://{LOOPBACK}:1")
    try:
        return _scrape_seconds(server.url, os.getpid())
    finally:
        server.close()


def _scrape_seconds(url: str, pid: int) -> float:
    """Return the CPU seconds that a process takes for one scrape, compressed as Prometheus asks."""
    serving = psutil.Process(pid)
    before = serving.cpu_times()
    subprocess.run([sys.executable, "-c", _SCRAPER, url, str(_NUM_SCRAPES)], check=True)
    after = serving.cpu_times()
    return (after.user + after.system - before.user - before.system) / _NUM_SCRAPES


def costs(training: Training, addresses: Addresses) -> dict[str, float]:
    """Return the CPU seconds of metrics in one round, by part."""
    num_scrapes = training.shortest_seconds() / SCRAPE_INTERVAL_SECONDS
    num_invocations = sum(record.invocations for record in training.records) / training.config.rounds
    gateway = (f"{addresses.gateway.url}/metrics", addresses.gateway_pid)
    return {
        "peers count": sum(peer_counting_seconds(training, peer) for peer in range(NUM_PEERS)),
        "peers are scraped": NUM_PEERS * peer_scrape_seconds(training) * num_scrapes,
        "gateway counts": num_invocations * gateway_counting_seconds(),
        "gateway is scraped": _scrape_seconds(*gateway) * num_scrapes,
    }


def report(measured: list[Training], bare: list[Training], parts: dict[str, float]) -> dict[str, Any]:
    """Print the table on stderr, and return what the JSON line says; `parts` are of the last one measured."""
    whole = measured[-1].cpu_seconds()
    total = sum(parts.values())
    print(f"\n{'CPU time of a round':24} {'ms':>9} {'share':>8}", file=sys.stderr)
    for name, seconds in {**parts, "metrics": total, "round": whole}.items():
        print(f"{name:24} {1e3 * seconds:9.3f} {seconds / whole:8.3%}", file=sys.stderr)
    pairs = [each.cpu_seconds() / other.cpu_seconds() for each, other in zip(measured, bare, strict=True)]
    without = [each.cpu_seconds() for each in bare]
    noise = max(without) / min(without) - 1 if len(without) > 1 else None
    ratio = statistics.median(pairs)
    each = ", ".join(f"{pair:.3f}" for pair in pairs)
    print(f"\ntrainings with metrics to those without: {ratio:.3f} (pairs: {each})", file=sys.stderr)
    if noise is not None:
        print(f"trainings without metrics, the most to the least: {1 + noise:.3f}", file=sys.stderr)
    return {
        "benchmark": "metrics",
        "metrics_to_round": round(total / whole, 5),
        "parts_ms": {name: round(1e3 * seconds, 4) for name, seconds in parts.items()},
        "round_cpu_ms": round(1e3 * whole, 2),
        "shortest_round_ms": round(1e3 * measured[-1].shortest_seconds(), 2),
        "paired_ratio": round(ratio, 4),
        "paired_noise": None if noise is None else round(noise, 4),
        "pairs": len(pairs),
    }


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="one pair of 16 rounds")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.rounds = 1, 16
    if options.pairs < 1 or options.rounds < _LEAST_ROUNDS:
        parser.error(f"--pairs is at least 1, --rounds at least {_LEAST_ROUNDS}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="peerless-metrics-") as directory:
        setting = Setting(Path(directory), _NUM_SAMPLES, len(os.sched_getaffinity(0)))
        write_samples(setting.directory, _NUM_SAMPLES)
        with running_platform(setting, lambda line: print(line, file=sys.stderr)) as addresses:
            measured, bare = list[Training](), list[Training]()
            for pair in range(options.pairs):
                # which one goes first alternates, so that neither has the warmer machine
                for is_measured in (True, False) if pair % 2 else (False, True):
                    trained = train(addresses, options.rounds, is_measured=is_measured)
                    (measured if is_measured else bare).append(trained)
            parts = costs(measured[-1], addresses)
        result = report(measured, bare, parts) | {"store": addresses.store_kind, "host": host_facts()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
