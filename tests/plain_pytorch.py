"""What tests against plain PyTorch share: models, made-up batches, and stored samples read by hand."""

from dataclasses import dataclass

import torch
from harness import Runner
from torch import Tensor, nn

from peer.learning.datasets.manifest import DatasetManifest
from peer.learning.gradients import LabelledBatch, loss_named
from peer.learning.models import initialise
from peer.messages import ModelSpec

LOSS = loss_named("cross_entropy")
SHAPES = {
    "cnn": (1, 28, 28),
    "resnet18": (3, 32, 32),
    "mobilenet_v3_small": (3, 32, 32),
    "squeezenet1_1": (3, 32, 32),
}


def made_up_batches(name: str, sizes: list[int]) -> list[LabelledBatch]:
    generator = torch.Generator().manual_seed(8)
    return [
        LabelledBatch(
            index,
            torch.randn(size, *SHAPES[name], generator=generator).to(memory_format=torch.channels_last),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for index, size in enumerate(sizes)
    ]


def first_model(name: str, **arguments: object) -> nn.Module:
    return initialise(ModelSpec(name=name, arguments=arguments), 10, 1)


def model_without_dropout(name: str) -> nn.Module:
    return first_model(name, **({"dropout": 0} if name == "mobilenet_v3_small" else {}))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@dataclass(frozen=True)
class Samples:
    images: torch.Tensor
    labels: torch.Tensor


def read_samples(runner: Runner, manifest: DatasetManifest) -> Samples:
    """Read the stored records by hand: one label byte, then the pixels."""
    order = manifest.splits["train"].orders["shuffled"]
    raw = torch.cat(
        [torch.frombuffer(runner.store.get(part.key), dtype=torch.uint8) for part in order.parts]
    ).reshape(-1, 1 + 20 * 20)
    images = raw[:, 1:].reshape(-1, 1, 20, 20).float() / 255
    mean, std = torch.tensor(manifest.mean), torch.tensor(manifest.std)
    return Samples((images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1), raw[:, 0].long())
