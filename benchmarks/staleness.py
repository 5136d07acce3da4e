"""What staleness saves where peers are slow, and what it costs in accuracy: whole runs on MNIST.

Four peers that compute themselves, over one store; a stall is a sleep before a peer's gradient. Nobody stalls
(`none`), one peer does in each round (`one`), or each peer does in one round of ten, drawn for peer and round
(`each`). Every pattern is run once with each staleness, one run after the other.

    python benchmarks/staleness.py [--rounds 120] [--stall 1.0] [--repetitions 1] [S ...]

Prints a line a run and one JSON line by pattern and staleness: seconds of the slowest peer, seconds waited
(mean over peers), test accuracy, mean staleness; and the host's facts.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from host import host_facts
from msgspec.structs import replace
from store import running_store

from peer import runs
from peer.compute import Compute
from peer.config import GatewayAddress, Liveness, RunConfig, RunStart
from peer.learning.datasets import catalogue
from peer.learning.threads import use_one_thread
from peer.local.peers import train_locally
from peer.records.phases import WAIT
from peer.records.rounds import RoundRecord, accuracy, mean_staleness
from peer.session import Surroundings, invoker_for
from peer.store.s3 import Store
from peer.store.servers import ServerKind

NUM_PEERS = 4
CONFIG = RunConfig(
    run="",
    dataset="mnist",
    num_peers=NUM_PEERS,
    rounds=120,
    batch_size=64,
    batches_per_round=2,
    batches_per_invocation=1,
    initial_weights="",
    initial_weights_bytes=0,
    compute="local",
)
PATTERNS: dict[str, Callable[[int, int], bool]] = {
    "none": lambda peer, number: False,
    "one": lambda peer, number: peer == NUM_PEERS - 1,
    "each": lambda peer, number: random.Random(f"{peer} {number}").random() < 0.1,
}
"""Whether a peer stalls in a round."""


def stalling(pattern: str, seconds: float) -> Callable[..., Any]:
    """Return `Compute.gradient` that sleeps before where the pattern says so."""
    gradient = Compute.gradient

    def stalled(compute: Compute, round_number: int, *arguments: Any) -> Any:
        if PATTERNS[pattern](compute._rank, round_number):
            time.sleep(seconds)
        return gradient(compute, round_number, *arguments)

    return stalled


def train(store: Store, directory: Path, config: RunConfig) -> dict[str, float]:
    """Return what one run came to."""
    surroundings = Surroundings(store.address, GatewayAddress(""), Liveness(), 60.0, directory / config.run)
    surroundings.directory.mkdir(parents=True)
    config = runs.create(store, config, invoker_for(config, surroundings, store), lambda _: None)
    by_peer: dict[int, list[RoundRecord]] = defaultdict(list)
    results = train_locally(
        surroundings, config, RunStart(), lambda record: by_peer[record.peer].append(record)
    )
    counts = [record.staleness for records in by_peer.values() for record in records]
    seconds = [sum(sum(record.phase_seconds.values()) for record in records) for records in by_peer.values()]
    waited = [sum(record.phase_seconds[WAIT] for record in records) for records in by_peer.values()]
    return {
        "seconds": max(seconds),
        "wait_seconds": fmean(waited),
        "accuracy": accuracy(results[0].test) or 0.0,
        "mean_staleness": mean_staleness([sum(late) for late in zip(*counts, strict=True)]),
    }


def measure(options: argparse.Namespace, store: Store, directory: Path) -> dict[str, Any]:
    """Return what each run came to, by pattern and staleness; prints a line a run."""
    catalogue.push(store, CONFIG.dataset, data_dir=options.data_dir)
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        pattern: {str(staleness): [] for staleness in options.staleness} for pattern in options.patterns
    }
    plain = Compute.gradient
    for repetition in range(options.repetitions):
        for pattern in options.patterns:
            for staleness in options.staleness:
                name = f"{pattern}-{staleness}-{repetition}"
                config = replace(
                    CONFIG, run=name, rounds=options.rounds, staleness=staleness, seed=repetition
                )
                Compute.gradient = stalling(pattern, options.stall)  # type: ignore[method-assign]
                row = train(store, directory, config)
                Compute.gradient = plain  # type: ignore[method-assign]
                found[pattern][str(staleness)].append(row)
                text = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
                print(f"stalls {pattern:5} S {staleness:2}  {text}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print a line a run on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("staleness", nargs="*", type=int, metavar="S", default=[0, 1, 4])
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--stall", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--patterns", nargs="+", choices=list(PATTERNS), default=list(PATTERNS))
    parser.add_argument("--data-dir", type=Path, default=None)
    options = parser.parse_args()
    use_one_thread()
    with (
        tempfile.TemporaryDirectory() as directory,
        running_store(ServerKind.MINIO, Path(directory)) as store,
    ):
        found = measure(options, store, Path(directory))
    conditions = {"rounds": options.rounds, "stall_seconds": options.stall}
    print(json.dumps({"benchmark": "staleness", **conditions, "found": found, "host": host_facts()}))


if __name__ == "__main__":
    main()
