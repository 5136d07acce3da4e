"""What it gains that a gradient is fetched while the next one is computed.

One peer, two replicas, the small CNN, 8 batches of 64 a round, one an invocation; the peer's way to the store
is shaped, the functions' is not. The sides run in turn; ratios are of minima over rounds.

    python benchmarks/overlap.py [--repeats 4] [--latency-ms 0.2] [--megabytes-per-second 1000]

Prints one JSON line: seconds of a round's phase `compute` with overlap and without, their ratio, and how much
of them a replica did nothing. Needs the `dev` extra.
"""

import argparse
import json
import os
import sys
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from epoch_setting import environment
from host import host_facts
from msgspec.structs import replace as replace_fields
from shaped_network import Network, shaped

from peer import runs
from peer.config import Liveness, RunConfig, RunStart
from peer.learning.datasets import catalogue
from peer.local.peers import train_locally
from peer.local.platform import Platform, PlatformOptions
from peer.messages import ModelSpec
from peer.records import rounds
from peer.records.rounds import RoundRecord
from peer.session import Surroundings, invoker_for
from peer.store.s3 import Store
from peer.store.servers import free_port

STACK = Path(__file__).resolve().parents[1] / "stack.yml"
NUM_REPLICAS = 2
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_CONFIG = RunConfig(
    run="",
    dataset="synthetic-4000-1x28x28",
    num_peers=1,
    rounds=8,
    batch_size=64,
    batches_per_round=8,
    batches_per_invocation=1,
    initial_weights="",
    initial_weights_bytes=0,
    model=ModelSpec("cnn", {"input_size": 28}),
    evaluate_every=0,
    checkpoint_every=0,
)


@dataclass(frozen=True)
class Shortest:
    """Of the rounds of a run but the first, in seconds."""

    compute_seconds: float
    idle_seconds: float
    """Of `compute`, in which a replica did nothing."""


def shortest_round(surroundings: Surroundings) -> Shortest:
    """Return the shortest times of a new run's rounds, which is removed again."""
    store = Store(surroundings.store)
    config = runs.create(
        store,
        replace_fields(_CONFIG, run=f"overlap-{uuid.uuid4().hex[:8]}"),
        invoker_for(_CONFIG, surroundings, store),
    )
    with tempfile.TemporaryDirectory() as directory:
        train_locally(
            replace(surroundings, directory=Path(directory)), config, RunStart(), lambda _record: None
        )
        records = rounds.read(Path(directory) / "rounds.jsonl")
    runs.remove(store, config.run)
    store.close()
    warm = [record for record in records if record.round]
    return Shortest(
        min(record.phase_seconds["compute"] for record in warm),
        min(map(_idle_seconds, warm)),
    )


def _idle_seconds(record: RoundRecord) -> float:
    return record.phase_seconds["compute"] - sum(record.function_seconds.values()) / NUM_REPLICAS


def measure(network: Network, repeats: int) -> dict[bool, list[Shortest]]:
    """Return what each repeat found, with overlap and without."""
    found: dict[bool, list[Shortest]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="peerless-overlap-") as directory:
        platform = Platform(Path(directory) / "state")
        options = PlatformOptions(
            platform.state_dir,
            STACK,
            gateway_port=free_port(),
            store_port=free_port(),
            replicas=NUM_REPLICAS,
        )
        try:
            platform.up(options, print_err)
            address, gateway = platform.store_address(), platform.gateway_address()
            if address is None or gateway is None:
                raise RuntimeError("the platform started without a store or a gateway")
            store = Store(address)
            catalogue.push(store, _CONFIG.dataset)
            store.close()
            with shaped(address.endpoint, network, 1) as (endpoint,):
                far = replace(address, endpoint=endpoint, function_endpoint=address.endpoint)
                surroundings = Surroundings(far, gateway, Liveness(), 120.0, Path(directory))
                for _ in range(repeats):
                    for is_overlapping, taken in found.items():
                        side = replace(surroundings, is_overlapping=is_overlapping)
                        taken.append(shortest_round(side))
                        print_err(f"overlap {is_overlapping!s:5} {taken[-1]}")
        finally:
            platform.down(lambda _line: None)
    return found


def print_err(line: str) -> None:
    """Say something that is no result."""
    print(line, file=sys.stderr)


def main() -> None:
    """Print the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--latency-ms", type=float, default=0.2)
    parser.add_argument("--megabytes-per-second", type=float, default=1000.0)
    options = parser.parse_args()
    network = Network(options.latency_ms / 1e3, options.megabytes_per_second * 1e6)
    with environment(os.environ | _ONE_THREAD):
        found = measure(network, options.repeats)
    together, apart = (min(each.compute_seconds for each in found[side]) for side in (True, False))
    idle_together, idle_apart = (min(each.idle_seconds for each in found[side]) for side in (True, False))
    print(
        json.dumps(
            {
                "benchmark": "overlap",
                "network": str(network),
                "overlap_seconds": round(together, 4),
                "apart_seconds": round(apart, 4),
                "speedup": round(apart / together, 3),
                "overlap_idle_seconds": round(idle_together, 4),
                "apart_idle_seconds": round(idle_apart, 4),
                "host": host_facts(),
            }
        )
    )


if __name__ == "__main__":
    main()
