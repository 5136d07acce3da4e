"""What it gains that a gradient is fetched while the next one is computed, and data before they are needed.

    python benchmarks/overlap.py [--far peer] [--repeats 4] [--latency-ms 0.2] [--megabytes-per-second 1000]

One peer, two replicas, the small CNN, one batch an invocation. The way to the store of those that are `--far`
is shaped, the others' is not. The sides, with overlap and without, run in turn. Prints one JSON line.

    --far peer       results: 8 batches of 64 a round. Seconds of a round's phase `compute`, and how much of
                     them a replica did nothing: minima over the rounds of all repeats, but the first.
    --far functions  data: 4 batches of 256 a round, of a data set of 11 parts; new replicas each time.
                     Seconds of 6 rounds in all, and functions' seconds in phase `fetch`: minima over repeats.

Needs the `dev` extra.
"""

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from epoch_setting import environment
from host import host_facts
from msgspec.structs import replace as replace_fields
from shaped_network import Network, shaped

from peer import runs
from peer.config import Liveness, RunConfig, RunStart
from peer.gateway import Gateway
from peer.learning.datasets import catalogue
from peer.local.peers import train_locally
from peer.local.platform import Platform, PlatformOptions
from peer.messages import ModelSpec
from peer.records import rounds
from peer.records.rounds import RoundRecord
from peer.session import Surroundings, invoker_for
from peer.store.retry import Patience, poll
from peer.store.s3 import Store
from peer.store.servers import LOOPBACK, free_port

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


# batches of several parts each, which two replicas have all met after some rounds
_DATA_CONFIG = replace_fields(
    _CONFIG, dataset="synthetic-60000-1x28x28", rounds=6, batch_size=256, batches_per_round=4
)
_REPLICAS_PATIENCE = Patience(total_seconds=60.0)

Figures = dict[str, float]


def records_of(config: RunConfig, surroundings: Surroundings) -> list[RoundRecord]:
    """Return the rounds of a new run, which is removed again."""
    store = Store(surroundings.store)
    config = runs.create(
        store,
        replace_fields(config, run=f"overlap-{uuid.uuid4().hex[:8]}"),
        invoker_for(config, surroundings, store),
    )
    with tempfile.TemporaryDirectory() as directory:
        train_locally(
            replace(surroundings, directory=Path(directory)), config, RunStart(), lambda _record: None
        )
        records = rounds.read(Path(directory) / "rounds.jsonl")
    runs.remove(store, config.run)
    store.close()
    return records


def shortest_round(surroundings: Surroundings) -> Figures:
    """Return the shortest times of a run's rounds but the first."""
    warm = [record for record in records_of(_CONFIG, surroundings) if record.round]
    return {
        "compute_seconds": min(record.phase_seconds["compute"] for record in warm),
        "idle_seconds": min(map(_idle_seconds, warm)),
    }


def _idle_seconds(record: RoundRecord) -> float:
    return record.phase_seconds["compute"] - sum(record.function_seconds.values()) / NUM_REPLICAS


def first_rounds(surroundings: Surroundings) -> Figures:
    """Return the seconds of a whole run on replicas that have nothing yet."""
    gateway = Gateway(surroundings.gateway)
    for replicas in (0, NUM_REPLICAS):
        gateway.scale("gradient", replicas)
        poll(partial(_has_replicas, gateway, replicas), _REPLICAS_PATIENCE)
    records = records_of(_DATA_CONFIG, surroundings)
    return {
        "rounds_seconds": sum(sum(record.phase_seconds.values()) for record in records),
        "fetch_seconds": sum(record.function_seconds["fetch"] for record in records),
    }


def _has_replicas(gateway: Gateway, replicas: int) -> bool | None:
    return gateway.describe("gradient").get("availableReplicas", 0) == replicas or None


@contextmanager
def running(far: str, network: Network) -> Iterator[Surroundings]:
    """Give the block a platform whose peers, or whose functions, reach its store by this network."""
    near = f"http://{LOOPBACK}:{free_port()}"
    with (
        tempfile.TemporaryDirectory(prefix="peerless-overlap-") as directory,
        shaped(near, network, 1) as (shaped_endpoint,),
        environment({**_ONE_THREAD, "PEERLESS_STORE_ORIGINS": f"{near},{shaped_endpoint}"}),
    ):
        platform = Platform(Path(directory) / "state")
        options = PlatformOptions(
            platform.state_dir,
            STACK,
            gateway_port=free_port(),
            store_port=urlsplit(near).port or 0,
            replicas=NUM_REPLICAS,
        )
        try:
            platform.up(options, print_err)
            address, gateway = platform.store_address(), platform.gateway_address()
            if address is None or gateway is None:
                raise RuntimeError("the platform started without a store or a gateway")
            endpoints = {"endpoint": near, "function_endpoint": near}
            endpoints["endpoint" if far == "peer" else "function_endpoint"] = shaped_endpoint
            yield Surroundings(replace(address, **endpoints), gateway, Liveness(), 120.0, Path(directory))
        finally:
            platform.down(lambda _line: None)


def measure(far: str, network: Network, repeats: int) -> dict[bool, list[Figures]]:
    """Return what each repeat found, with overlap and without."""
    found: dict[bool, list[Figures]] = {True: [], False: []}
    one_side, config = (shortest_round, _CONFIG) if far == "peer" else (first_rounds, _DATA_CONFIG)
    with running(far, network) as surroundings:
        store = Store(surroundings.store)
        catalogue.push(store, config.dataset)
        store.close()
        for _ in range(repeats):
            for is_overlapping, taken in found.items():
                taken.append(one_side(replace(surroundings, is_overlapping=is_overlapping)))
                print_err(f"overlap {is_overlapping!s:5} {taken[-1]}")
    return found


def print_err(line: str) -> None:
    """Say something that is no result."""
    print(line, file=sys.stderr)


def main() -> None:
    """Print the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--far", choices=["peer", "functions"], default="peer")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--latency-ms", type=float, default=0.2)
    parser.add_argument("--megabytes-per-second", type=float, default=1000.0)
    options = parser.parse_args()
    network = Network(options.latency_ms / 1e3, options.megabytes_per_second * 1e6)
    found = measure(options.far, network, options.repeats)
    together, apart = (
        {name: min(each[name] for each in found[side]) for name in found[side][0]} for side in (True, False)
    )
    figures = {
        f"{side}_{name}": round(seconds, 4)
        for side, shortest in (("overlap", together), ("apart", apart))
        for name, seconds in shortest.items()
    }
    first = next(iter(together))
    print(
        json.dumps(
            {
                "benchmark": "overlap",
                "far": options.far,
                "network": str(network),
                **figures,
                "speedup": round(apart[first] / together[first], 3),
                "host": host_facts(),
            }
        )
    )


if __name__ == "__main__":
    main()
