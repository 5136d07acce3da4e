"""Four peers agree with one plain PyTorch process: same batches, same optimizer, own loop."""

import pytest
import torch
from harness import Runner
from plain_pytorch import read_samples
from safetensors.torch import load_file
from torch import nn

from peer import session
from peer.learning.datasets import catalogue
from peer.learning.flat import Layout
from peer.learning.models import build
from peer.learning.shards import plan_shards
from peer.messages import ModelSpec, OptimizerSpec
from peer.weights import fetch

pytestmark = pytest.mark.slow

ROUNDS = 20


def resized(images: torch.Tensor, size: int | None) -> torch.Tensor:
    if size is None:
        return images
    images = nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1)


def train_plainly(
    model: nn.Module, optimizer: torch.optim.Optimizer, rounds: list[list[tuple[torch.Tensor, torch.Tensor]]]
) -> None:
    """Take one step a round on the mean over all its samples.

    BatchNorm normalises each batch by itself, from the round's first buffers, which become the mean of what
    the batches leave.
    """
    for batches in rounds:
        total = sum(len(labels) for _, labels in batches)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        after = {name: torch.zeros_like(buffer, dtype=torch.float64) for name, buffer in before.items()}
        optimizer.zero_grad()
        for images, labels in batches:
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
            loss = nn.functional.cross_entropy(model(images), labels, reduction="sum") / total
            loss.backward()  # type: ignore[no-untyped-call]
            for name, buffer in model.named_buffers():
                after[name] += buffer.double() * len(labels) / total
        for name, buffer in model.named_buffers():
            buffer.copy_(after[name])
        optimizer.step()


@pytest.mark.parametrize(
    ("model", "size", "optimizer"),
    [
        (ModelSpec("cnn", {"input_size": 20}), None, OptimizerSpec(name="adamw", learning_rate=1e-3)),
        (
            ModelSpec("mobilenet_v3_small", {"dropout": 0.0}),
            32,
            OptimizerSpec(name="sgd", learning_rate=0.01, weight_decay=1e-4),
        ),
    ],
    ids=["cnn-adamw", "mobilenet-sgd"],
)
def test_four_peers_after_twenty_rounds_equal_one_process(
    local_runner: Runner, model: ModelSpec, size: int | None, optimizer: OptimizerSpec
) -> None:
    config = local_runner.create(
        model.name,
        model=model,
        optimizer=optimizer,
        rounds=ROUNDS,
        batch_size=8,
        evaluate_every=0,
        checkpoint_every=0,
        compute="local",
        keep_objects=True,
    )
    manifest = catalogue.find(local_runner.store, config.dataset)
    samples = read_samples(local_runner, manifest)
    shards = plan_shards(manifest, 4, "iid", 0)
    chosen = [
        [
            torch.cat([torch.arange(start, stop) for start, stop in shard.batch(index, 8)[1]])
            for shard in shards
            for index in (2 * round_number, 2 * round_number + 1)
        ]
        for round_number in range(ROUNDS)
    ]
    plain = build(model, manifest.num_classes)
    first = fetch(local_runner.store, session.initial_weights(config))
    plain.load_state_dict(Layout.of(plain).to_state_dict(first))
    if optimizer.name == "adamw":
        reference = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    else:
        reference = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    train_plainly(
        plain,
        reference,
        [
            [(resized(samples.images[batch], size), samples.labels[batch]) for batch in batches]
            for batches in chosen
        ],
    )

    local_runner.go(config, session.RunStart())

    trained = load_file(local_runner.surroundings.directory / model.name / "model.safetensors")
    state = plain.state_dict()
    plainly = {name: tensor.detach() for name, tensor in state.items() if tensor.is_floating_point()}
    initial = Layout.of(plain).to_state_dict(first)
    length, moved, differed = (
        torch.cat([(plainly[name] - other[name]).flatten() for name in plainly]).norm().item()
        for other in ({name: torch.zeros(()) for name in plainly}, initial, trained)
    )
    assert differed < 1e-4 * length
    assert differed < 1e-2 * moved
