"""What each codec costs in accuracy: the same training of MNIST with each, seed by seed.

Four peers in one process and without a store: gradients by `peer.learning`, compressed by
`peer.exchange.compressor` as for the exchange, folded and applied as peers do it. So the figures are those of
`peerless train --compute local --compression CODEC` but for which samples a batch has.

    python benchmarks/compression_learning.py [--rounds 120] [--seeds 3] [--first-seed 0] [CODEC ...]

Prints a line a training and a table on stderr, and one JSON line with the test accuracies and `ratio` (bytes
before to bytes of the objects) by codec, and the host's facts. `short` names what ends more than half a point
below no codec, in the mean over the seeds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from host import host_facts
from torch import Tensor

from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.names import NONE, parse
from peer.exchange.compressor import Compressor
from peer.learning.datasets import sources
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import LabelledBatch, compute_gradient, evaluate, loss_named
from peer.learning.models import initialise
from peer.learning.optimizers import FlatOptimizer
from peer.learning.seeds import random_stream
from peer.learning.threads import use_one_thread
from peer.messages import ModelSpec, OptimizerSpec, PeerManifest
from peer.store.gradients import encode_gradient

CODECS = (
    *(NONE, "fp16", "bf16", "int8", "qsgd:8", "qsgd:4", "qsgd:2"),
    *("topk:0.1", "topk:0.01", "topk:0.001", "sparseloco"),
)
NUM_PEERS = 4
MOST_POINTS_LOST = 0.5
_EVALUATED_AT_ONCE = 1000
_MODEL = ModelSpec("cnn")
_LOSS = loss_named("cross_entropy")


@dataclass
class Row:
    """What was measured of one codec."""

    accuracies: list[float] = field(default_factory=list)
    ratio: float = 1.0


class Samples:
    """One split of MNIST, normalised and in memory."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        scaled = images.float().div_(255).sub_(0.1307).div_(0.3081)
        self.inputs = scaled.contiguous(memory_format=torch.channels_last)
        self.labels = labels.long()

    def batch(self, index: int, chosen: Tensor) -> LabelledBatch:
        """Return the samples of these numbers as one batch."""
        return LabelledBatch(index, self.inputs[chosen], self.labels[chosen])

    def all(self) -> Iterator[LabelledBatch]:
        """Yield every sample once."""
        for number, chosen in enumerate(torch.split(torch.arange(len(self.labels)), _EVALUATED_AT_ONCE)):
            yield self.batch(number, chosen)


def train(codec: str, seed: int, train_set: Samples, rounds: int, batch_size: int) -> tuple[FlatState, float]:
    """Return the weights after so many rounds, and how many times smaller gradients were."""
    model = initialise(_MODEL, 10, seed, (1, 28, 28)).to(memory_format=torch.channels_last)
    layout = Layout.of(model)
    state = layout.flatten(model)
    optimizer = FlatOptimizer(state.parameters, OptimizerSpec("adamw", 2e-3))
    name = parse(codec)
    compressors = [Compressor(codec_named(name), seed, decay=name.decay) for _ in range(NUM_PEERS)]
    order = torch.from_numpy(random_stream(seed).permutation(len(train_set.labels)))
    before = after = 0
    for number in range(rounds):
        mean = WeightedMean()
        for peer, compressor in enumerate(compressors):
            first = (number * NUM_PEERS + peer) * batch_size % (len(order) - batch_size)
            batch = train_set.batch(number, order[first : first + batch_size])
            result = compute_gradient(
                model, layout, state, [batch], loss=_LOSS, micro_batch=0, seed_of=lambda index: index
            )
            gradient = Gradient(result.gradient, result.buffers, result.counters, batch_size)
            before += encode_gradient(gradient).length
            manifest = PeerManifest("learning", 0, number, peer, "", "", "")
            after += compressor.compress(gradient, 0, layout.num_parameters, manifest).length
            mean.add(gradient)
        folded = mean.result()
        optimizer.step(folded.values)
        state = FlatState(optimizer.parameters, folded.buffers, folded.counters)
    return state, before / after


def measure(options: argparse.Namespace) -> dict[str, Row]:
    """Return the row of each codec, by its name; prints a line a training."""
    raw = sources.load("mnist", options.data_dir)
    train_set, test_set = (
        Samples(torch.tensor(split.images), torch.tensor(split.labels)) for split in (raw.train, raw.test)
    )
    rows = {codec: Row() for codec in options.codecs}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for codec, row in rows.items():
            state, row.ratio = train(codec, seed, train_set, options.rounds, options.batch)
            model = initialise(_MODEL, 10, seed, (1, 28, 28))
            found = evaluate(model, Layout.of(model), state, test_set.all(), loss=_LOSS)
            row.accuracies.append(100 * found.num_correct / found.num_samples)
            print(f"seed {seed} {codec:12} {row.accuracies[-1]:6.2f} %", file=sys.stderr, flush=True)
    return rows


def report(rows: dict[str, Row], options: argparse.Namespace) -> dict[str, Any]:
    """Print the table on stderr, and return what the JSON line says."""
    print(f"\n{'codec':12} {'ratio':>8} {'mean':>7} {'lowest':>7} {'to none':>8}", file=sys.stderr)
    means = {codec: statistics.fmean(row.accuracies) for codec, row in rows.items()}
    plain = means.get(NONE, 0.0)
    for codec, row in rows.items():
        print(
            f"{codec:12} {row.ratio:8.2f} {means[codec]:7.2f} {min(row.accuracies):7.2f} "
            f"{means[codec] - plain:+8.2f}",
            file=sys.stderr,
        )
    return {
        "benchmark": "compression_learning",
        "rounds": options.rounds,
        "samples_a_round": NUM_PEERS * options.batch,
        "accuracies": {codec: row.accuracies for codec, row in rows.items()},
        "ratio": {codec: round(row.ratio, 3) for codec, row in rows.items()},
        "short": [codec for codec, mean in means.items() if mean < plain - MOST_POINTS_LOST],
        "host": host_facts(),
    }


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codecs", nargs="*", metavar="CODEC", default=list(CODECS))
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64, help="samples of a peer in a round")
    parser.add_argument("--data-dir", type=Path, default=None)
    options = parser.parse_args()
    if min(options.rounds, options.seeds, options.batch) < 1:
        parser.error("--rounds, --seeds and --batch are at least 1")
    use_one_thread()
    rows = measure(options)
    print(json.dumps(report(rows, options)))


if __name__ == "__main__":
    main()
