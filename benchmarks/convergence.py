"""What each codec, and each number of local steps, costs in accuracy: the same training, seed by seed.

Four peers in one process and without a store: gradients by `peer.learning`, compressed by
`peer.exchange.compressor` as for the exchange, folded and applied as peers do it. So the figures are those of
`peerless train --compute local` but for which samples a batch has. All settings go through as many samples.

    python benchmarks/convergence.py [--dataset mnist] [--data-dir DIR] [--batches 240] [SETTING ...]

A setting is a codec (`--compression`), with an exchange every two batches; `steps:H` (`--local-steps H`);
`diloco:H` (with an outer rate of 0.7 and momentum of 0.9); or one of these and a codec: `steps:16+qsgd:4`.

Prints a line a training and a table on stderr, and one JSON line with the test accuracies and `fewer` (bytes
of the gradients of `none` to those of the setting) by setting, and the host's facts. `short` names what ends
more than half a point below `none`, in the mean over the seeds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from host import host_facts
from torch import Tensor, nn

from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.names import NONE, parse
from peer.exchange.compressor import Compressor
from peer.learning.datasets import sources
from peer.learning.datasets.manifest import RawSplit
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import LabelledBatch, compute_gradient, evaluate, loss_named
from peer.learning.local_steps import take_steps
from peer.learning.models import initialise
from peer.learning.optimizers import FlatOptimizer
from peer.learning.seeds import random_stream
from peer.learning.threads import use_one_thread
from peer.messages import ModelSpec, OptimizerSpec, PeerManifest

SETTINGS = (
    *(NONE, "fp16", "bf16", "int8", "qsgd:8", "qsgd:4", "qsgd:2", "topk:0.1", "topk:0.01"),
    *("steps:16", "steps:40", "diloco:16", "steps:16+qsgd:4", "steps:8+sparseloco"),
)
NUM_PEERS = 4
MOST_POINTS_LOST = 0.5
_BATCHES_A_ROUND = 2
_OUTER = {"steps": (1.0, 0.0), "diloco": (0.7, 0.9)}
_EVALUATED_AT_ONCE = 1000
_LOSS = loss_named("cross_entropy")
_ADAMW = OptimizerSpec("adamw", 2e-3)


@dataclass(frozen=True)
class Setting:
    """What a run would be told.

    Attributes:
        name: of the setting.
        codec: `--compression`.
        local_steps: `--local-steps`, 0 for none.
        outer: `--outer-learning-rate` and `--outer-momentum`.
    """

    name: str
    codec: str
    local_steps: int = 0
    outer: tuple[float, float] = (1.0, 0.0)

    @property
    def batches_a_round(self) -> int:
        """Of each peer."""
        return self.local_steps or _BATCHES_A_ROUND


def setting_named(name: str) -> Setting:
    """Return the setting of this name; raises ValueError or ConfigurationError if there is none."""
    kind, _, rest = name.partition(":")
    if kind not in _OUTER:
        parse(name)
        return Setting(name, name)
    steps, _, codec = rest.partition("+")
    parse(codec or NONE)
    return Setting(name, codec or NONE, int(steps), _OUTER[kind])


@dataclass
class Row:
    """What was measured of one setting."""

    accuracies: list[float] = field(default_factory=list)
    num_bytes: int = 0


class Samples:
    """One split of a dataset, normalised and in memory."""

    def __init__(self, split: RawSplit, mean: Tensor, std: Tensor) -> None:
        scaled = torch.tensor(split.images).float().div_(255).sub_(mean).div_(std)
        self.inputs = scaled.contiguous(memory_format=torch.channels_last)
        self.labels = torch.tensor(split.labels).long()

    def batch(self, index: int, chosen: Tensor) -> LabelledBatch:
        """Return the samples of these numbers as one batch."""
        return LabelledBatch(index, self.inputs[chosen], self.labels[chosen])

    def all(self) -> Iterator[LabelledBatch]:
        """Yield every sample once."""
        for number, chosen in enumerate(torch.split(torch.arange(len(self.labels)), _EVALUATED_AT_ONCE)):
            yield self.batch(number, chosen)


class Training:
    """One dataset and model, trained again and again.

    Args:
        name: of the dataset.
        data_dir: where its files are.
        batch_size: samples of a batch.
    """

    def __init__(self, name: str, data_dir: Path | None, batch_size: int) -> None:
        raw = sources.load(name, data_dir)
        pixels = torch.tensor(raw.train.images).double().div_(255)
        std, mean = (each.float().view(-1, 1, 1) for each in torch.std_mean(pixels, (0, 2, 3)))
        self.train_set, self.test_set = Samples(raw.train, mean, std), Samples(raw.test, mean, std)
        self.num_classes = len(raw.classes)
        self.shape = self.train_set.inputs.shape[1:]
        self.model = ModelSpec("cnn", {"channels": self.shape[0], "input_size": self.shape[1]})
        self.batch_size = batch_size

    def run(self, setting: Setting, seed: int, batches: int) -> tuple[float, int]:
        """Return the test accuracy in per cent, and the bytes of all gradients that were exchanged."""
        model = initialise(self.model, self.num_classes, seed).to(memory_format=torch.channels_last)
        layout = Layout.of(model)
        state = layout.flatten(model)
        rate, momentum = setting.outer
        outer = OptimizerSpec("sgd", rate, momentum=momentum, nesterov=momentum > 0)
        optimizer = FlatOptimizer(state.parameters, outer if setting.local_steps else _ADAMW)
        codec = parse(setting.codec)
        compressors = [Compressor(codec_named(codec), seed, decay=codec.decay) for _ in range(NUM_PEERS)]
        order = torch.from_numpy(random_stream(seed).permutation(len(self.train_set.labels)))
        num_bytes = 0
        for number in range(batches // setting.batches_a_round):
            mean = WeightedMean()
            for peer, compressor in enumerate(compressors):
                gradient = self._gradient(setting, model, layout, state, order, number * NUM_PEERS + peer)
                manifest = PeerManifest("convergence", 0, number, peer, "", "", "")
                num_bytes += compressor.compress(gradient, 0, layout.num_parameters, manifest).length
                mean.add(gradient)
            folded = mean.result()
            optimizer.step(folded.values)
            state = FlatState(optimizer.parameters, folded.buffers, folded.counters)
        found = evaluate(model, layout, state, self.test_set.all(), loss=_LOSS)
        return 100 * found.num_correct / found.num_samples, num_bytes

    def _gradient(
        self,
        setting: Setting,
        model: nn.Module,
        layout: Layout,
        state: FlatState,
        order: Tensor,
        turn: int,
    ) -> Gradient:
        """Return what a peer's turn comes to: the mean of its batches, or how far its steps moved."""
        size, count = self.batch_size, setting.batches_a_round
        starts = [(turn * count + batch) * size % (len(order) - size) for batch in range(count)]
        batches = [
            self.train_set.batch(turn * count + batch, order[start : start + size])
            for batch, start in enumerate(starts)
        ]
        compute = partial(take_steps, optimizer=_ADAMW) if setting.local_steps else compute_gradient
        result = compute(
            model, layout, state, batches, loss=_LOSS, micro_batch=0, seed_of=lambda index: index
        )
        return Gradient(result.gradient, result.buffers, result.counters, size * count)


def measure(options: argparse.Namespace) -> dict[str, Row]:
    """Return the row of each setting, by its name; prints a line a training."""
    training = Training(options.dataset, options.data_dir, options.batch)
    rows = {name: Row() for name in options.settings}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, row in rows.items():
            accuracy, row.num_bytes = training.run(setting_named(name), seed, options.batches)
            row.accuracies.append(accuracy)
            print(f"seed {seed} {name:18} {accuracy:6.2f} %", file=sys.stderr, flush=True)
    return rows


def report(rows: dict[str, Row], options: argparse.Namespace) -> dict[str, Any]:
    """Print the table on stderr, and return what the JSON line says."""
    print(f"\n{'setting':18} {'fewer bytes':>11} {'mean':>7} {'lowest':>7} {'to none':>8}", file=sys.stderr)
    means = {name: statistics.fmean(row.accuracies) for name, row in rows.items()}
    plain, plain_bytes = means.get(NONE, float("nan")), rows[NONE].num_bytes if NONE in rows else float("nan")
    fewer = {name: plain_bytes / row.num_bytes for name, row in rows.items()}
    for name, row in rows.items():
        print(
            f"{name:18} {fewer[name]:11.2f} {means[name]:7.2f} {min(row.accuracies):7.2f} "
            f"{means[name] - plain:+8.2f}",
            file=sys.stderr,
        )
    return {
        "benchmark": "convergence",
        "dataset": options.dataset,
        "batches_a_peer": options.batches,
        "batch_size": options.batch,
        "accuracies": {name: row.accuracies for name, row in rows.items()},
        "fewer": {name: round(each, 3) for name, each in fewer.items()},
        "short": [name for name, mean in means.items() if mean < plain - MOST_POINTS_LOST],
        "host": host_facts(),
    }


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", default=list(SETTINGS))
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--batches", type=int, default=240, help="of each peer, in the whole training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64, help="samples of a batch")
    parser.add_argument("--data-dir", type=Path, default=None)
    options = parser.parse_args()
    if min(options.batches, options.seeds, options.batch) < 1:
        parser.error("--batches, --seeds and --batch are at least 1")
    use_one_thread()
    rows = measure(options)
    print(json.dumps(report(rows, options)))


if __name__ == "__main__":
    main()
