"""The oracle is plain PyTorch: its own model, loop and optimizer, standard memory layout, mean losses."""

import copy

import pytest
import torch
from plain_pytorch import LOSS, first_model, made_up_batches, model_without_dropout, relative_error
from torch import nn
from torch.nn import functional

from peer.errors import FunctionRefused, TrainingDiverged
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import GradientResult, LabelledBatch, batch_seed, compute_gradient
from peer.learning.local_steps import take_steps
from peer.messages import OptimizerSpec

SGD = OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
ADAMW = OptimizerSpec(name="adamw", learning_rate=1e-3, weight_decay=1e-2)


def steps(
    model: nn.Module, batches: list[LabelledBatch], optimizer: OptimizerSpec, micro_batch: int = 0
) -> tuple[FlatState, GradientResult]:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    layout = Layout.of(model)
    state = layout.flatten(model)
    result = take_steps(
        model,
        layout,
        state,
        batches,
        optimizer=optimizer,
        loss=LOSS,
        micro_batch=micro_batch,
        seed_of=lambda batch: batch_seed(0, 0, 0, batch),
    )
    return state, result


def plainly(model: nn.Module, batches: list[LabelledBatch], optimizer: torch.optim.Optimizer) -> FlatState:
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.inputs.contiguous()), batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Layout.of(model).flatten(model)


@pytest.mark.parametrize("spec", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small"])
def test_steps_end_where_plain_pytorch_does(name: str, spec: OptimizerSpec) -> None:
    batches = made_up_batches(name, [24, 24, 10])
    model = model_without_dropout(name)

    state, result = steps(model, batches, spec)

    if spec.name == "sgd":
        reference = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    else:
        reference = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)  # type: ignore[assignment]
    end = plainly(model, batches, reference)
    moved = state.parameters - end.parameters
    # AdamW's first steps divide a gradient by its own size: of one that is nearly 0, even the sign is noise
    assert relative_error(result.gradient, moved) < (1e-3 if spec.name == "sgd" else 3e-2)
    assert float(moved.norm()) > 0.01
    torch.testing.assert_close(result.buffers, end.buffers, rtol=1e-3, atol=1e-4)
    assert torch.equal(result.counters, end.counters)
    assert result.training.num_samples == 58


def test_one_plain_step_is_the_gradient_times_the_learning_rate() -> None:
    (batch,) = made_up_batches("resnet18", [16])
    model = first_model("resnet18").to(memory_format=torch.channels_last)
    layout = Layout.of(model)

    _, result = steps(model, [batch], OptimizerSpec(name="sgd", learning_rate=0.5, momentum=0.0))

    gradient = compute_gradient(
        model,
        layout,
        layout.flatten(model),
        [batch],
        loss=LOSS,
        micro_batch=0,
        seed_of=lambda number: batch_seed(0, 0, 0, number),
    )
    assert relative_error(result.gradient, 0.5 * gradient.gradient) < 1e-3
    assert result.training == gradient.training


def test_steps_again_have_the_same_bits_and_leave_the_state_alone() -> None:
    batches = made_up_batches("mobilenet_v3_small", [12, 12])
    model = first_model("mobilenet_v3_small")
    before = torch.random.get_rng_state()

    state, first = steps(model, batches, ADAMW)
    _, second = steps(model, batches, ADAMW)

    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name
    assert torch.equal(state.parameters, Layout.of(model).flatten(model).parameters)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_steps_in_micro_batches_are_the_same_to_float_error() -> None:
    batches = made_up_batches("cnn", [24, 24])
    model = first_model("cnn")

    _, whole = steps(model, batches, SGD)
    _, cut = steps(model, batches, SGD, micro_batch=7)

    assert relative_error(cut.gradient, whole.gradient) < 1e-4


def test_steps_with_no_batch_are_refused() -> None:
    with pytest.raises(FunctionRefused, match="there is no batch"):
        steps(first_model("cnn"), [], SGD)


def test_steps_that_diverge_say_so() -> None:
    batches = made_up_batches("cnn", [8, 8, 8])

    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        steps(first_model("cnn"), batches, OptimizerSpec(name="sgd", learning_rate=1e30))
