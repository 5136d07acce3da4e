"""How close an epoch comes to its compute floor, and how far ahead of the published dataflow it is.

Four peers, SqueezeNet 1.1, MNIST, batches of 512, one step an epoch; the second epoch on a warm platform,
batches packed into invocations, without evaluation. Every side decodes, normalises and resizes its samples,
in as many processes, against the same store. The sides run in turn; ratios are of minima.

    python benchmarks/epoch.py [--repeats 3] [--samples 60000] [--quick]

floor      forward and backward alone, in as many 1-thread processes as cores, with the functions' allocator
           settings and memory layout, samples in local memory (epoch_floor.py)
peerless   the whole of it: gateway, functions, store, four peer processes (epoch_peerless.py)
published  the paper's dataflow, re-created (epoch_published.py)
grid       peerless with so many batches an invocation × replicas, each once; then its best three again, in
           turn with `--optimize time` (epoch_plan.py)

Prints a table, and one JSON line with `ratio_to_floor` (goal: at most 1.20), `speedup_over_published` (goal:
at least 2), `planner_to_best` (of these three; at most 1.05), `unpacked_to_packed` and the host's facts.
One batch an invocation, with overlap (results are fetched while others are computed) and without, and fresh
replicas, are rows without a goal; `benchmarks/overlap.py` measures overlap where the store is far away. A
row's GB-s are the seconds of all functions times their memory limit. Needs the `dev` extra.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import epoch_floor
import epoch_peerless
import epoch_plan
import epoch_published
import yaml
from epoch_peerless import FUNCTION, STACK, Addresses, Epoch, Way
from epoch_setting import Setting, write_samples
from host import host_facts

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TUNING = ("GLIBC_TUNABLES", *_ONE_THREAD)
_QUICK_SAMPLES = 8_192
PACKED = "peerless"
UNPACKED = "peerless, a batch an invocation"
NOT_OVERLAPPING = "the same without overlap"
COLD = "peerless, fresh replicas"


@dataclass
class Taken:
    """The shortest seconds of each way to compute an epoch, and the shortest epoch of those by peerless."""

    seconds: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, Epoch] = field(default_factory=dict)

    def note(self, way: str, seconds: float) -> None:
        """Count one epoch."""
        self.seconds[way] = min(seconds, self.seconds.get(way, seconds))
        print(f"{way:32} {seconds:8.2f} s", file=sys.stderr)

    def note_epoch(self, way: str, epoch: Epoch) -> None:
        """Count one epoch of peerless."""
        self.epochs[way] = min(epoch, self.epochs.get(way, epoch), key=lambda each: each.seconds)
        self.note(way, epoch.seconds)


def measure(setting: Setting, addresses: Addresses, repeats: int) -> Taken:
    """Return what each way to compute an epoch took, one after the other, so many times."""
    taken, tuned = Taken(), tuned_environment()
    ways = {
        PACKED: Way(),
        UNPACKED: Way(1),
        NOT_OVERLAPPING: Way(1, is_overlapping=False),
        COLD: Way(is_cold=True),
    }
    for _ in range(repeats):
        taken.note("floor", epoch_floor.epoch_seconds(setting, tuned))
        taken.note("published, re-created", epoch_published.epoch_seconds(setting, addresses.store))
        for name, way in ways.items():
            taken.note_epoch(name, epoch_peerless.epoch(addresses, way))
    epoch_plan.measure(setting, addresses, repeats, taken.note_epoch)
    return taken


def tuned_environment() -> dict[str, str]:
    """Return the allocator and thread settings that `stack.yml` gives the functions."""
    deployed = yaml.safe_load(STACK.read_text())["functions"][FUNCTION]["environment"]
    return {name: deployed[name] for name in _TUNING}


def profile(epoch: Epoch, floor_seconds: float, num_replicas: int) -> dict[str, float]:
    """Return where the replicas' time went, in seconds of the epoch; the parts add up to it.

    `idle` is when a replica had no invocation: before the first, after the last, and between two.
    """
    parts = {phase: seconds / num_replicas for phase, seconds in sorted(epoch.function_seconds.items())}
    parts["idle"] = epoch.seconds - sum(parts.values())
    parts["beyond_floor"] = epoch.seconds - floor_seconds
    return {name: round(seconds, 3) for name, seconds in parts.items()}


def report(setting: Setting, addresses: Addresses, taken: Taken) -> dict[str, Any]:
    """Print the table on stderr, and return what the JSON line says."""
    seconds = taken.seconds
    floor, peerless = seconds["floor"], seconds[PACKED]
    cost = {way: round(epoch.gb_seconds, 2) for way, epoch in taken.epochs.items()}
    print(f"\n{'way':32} {'seconds':>8} {'to floor':>9} {'GB-s':>8}", file=sys.stderr)
    for way, shortest in seconds.items():
        print(f"{way:32} {shortest:8.2f} {shortest / floor:9.2f} {cost.get(way, ''):>8}", file=sys.stderr)
    parts = profile(taken.epochs[PACKED], floor, addresses.num_replicas)
    print("\nof peerless's epoch, seconds a replica", file=sys.stderr)
    for name, part in parts.items():
        print(f"  {name:14} {part:8.3f}", file=sys.stderr)
    return {
        "benchmark": "epoch",
        "ratio_to_floor": round(peerless / floor, 3),
        "speedup_over_published": round(seconds["published, re-created"] / peerless, 3),
        "ratio_to_floor_unpacked": round(seconds[UNPACKED] / floor, 3),
        "overlap_speedup_unpacked": round(seconds[NOT_OVERLAPPING] / seconds[UNPACKED], 3),
        "ratio_to_floor_cold": round(seconds[COLD] / floor, 3),
        "unpacked_to_packed": round(seconds[UNPACKED] / peerless, 3),
        "planner_to_best": round(epoch_plan.planner_to_best(seconds), 3),
        "seconds": {way: round(shortest, 3) for way, shortest in seconds.items()},
        "gb_seconds": cost,
        "profile_seconds": parts,
        "samples": setting.num_samples,
        "replicas": addresses.num_replicas,
        "store": addresses.store_kind,
        "host": host_facts(),
    }


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--quick", action="store_true", help=f"one repeat of {_QUICK_SAMPLES} samples")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.samples = 1, _QUICK_SAMPLES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.update(_ONE_THREAD)
    with tempfile.TemporaryDirectory(prefix="peerless-epoch-") as directory:
        setting = Setting(Path(directory), options.samples, len(os.sched_getaffinity(0)))
        write_samples(setting.directory, options.samples)
        with epoch_peerless.running_platform(setting, lambda line: print(line, file=sys.stderr)) as addresses:
            taken = measure(setting, addresses, options.repeats)
        print(json.dumps(report(setting, addresses, taken)))


if __name__ == "__main__":
    main()
