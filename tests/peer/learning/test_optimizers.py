import pytest
import torch
from torch import nn

from peer.errors import CheckpointError
from peer.learning.optimizers import FlatOptimizer
from peer.messages import OptimizerSpec

SPECS = [
    OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=1e-3),
    OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9, nesterov=True),
    OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.0),
    OptimizerSpec(name="adamw", learning_rate=0.01, weight_decay=0.1),
]


def gradients(num_steps: int, length: int) -> list[torch.Tensor]:
    return list(torch.randn(num_steps, length, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("spec", SPECS)
def test_flat_optimizer_steps_like_torch_on_the_models_own_parameters(spec: OptimizerSpec) -> None:
    model = nn.Linear(5, 3)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    optimizer = FlatOptimizer(flat, spec)
    if spec.name == "sgd":
        reference: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(),
            lr=0.05,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            nesterov=spec.nesterov,
        )
    else:
        reference = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)

    for gradient in gradients(20, 18):
        model.weight.grad, model.bias.grad = gradient[:15].view(3, 5).clone(), gradient[15:].clone()
        reference.step()
        optimizer.step(gradient)

    expected = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    torch.testing.assert_close(optimizer.parameters, expected, rtol=1e-5, atol=1e-6)
    assert optimizer.parameters.data_ptr() == flat.data_ptr()


@pytest.mark.parametrize("spec", SPECS)
def test_flat_optimizer_load_continues_with_the_same_bits(spec: OptimizerSpec) -> None:
    steps = gradients(10, 1001)
    straight = FlatOptimizer(torch.ones(1001), spec)
    first = FlatOptimizer(torch.ones(1001), spec)
    for gradient in steps[:4]:
        straight.step(gradient)
        first.step(gradient)

    resumed = FlatOptimizer(first.parameters.clone(), spec)
    resumed.load({name: tensor.clone() for name, tensor in first.state_tensors().items()})
    for gradient in steps[4:]:
        straight.step(gradient)
        resumed.step(gradient)

    assert torch.equal(straight.parameters, resumed.parameters)


def test_flat_optimizer_load_of_nothing_is_a_first_step() -> None:
    fresh, loaded = (FlatOptimizer(torch.ones(9), SPECS[0]) for _ in range(2))
    loaded.load(fresh.state_tensors())

    fresh.step(torch.ones(9))
    loaded.step(torch.ones(9))

    assert torch.equal(fresh.parameters, loaded.parameters)


def test_flat_optimizer_leaves_the_gradient_as_it_was() -> None:
    gradient = torch.ones(9)

    FlatOptimizer(torch.ones(9), OptimizerSpec(name="sgd", weight_decay=0.5)).step(gradient)

    assert torch.equal(gradient, torch.ones(9))


def test_flat_optimizer_learning_rate_holds_from_the_next_step() -> None:
    optimizer = FlatOptimizer(torch.zeros(1), OptimizerSpec(name="sgd", learning_rate=1.0, momentum=0.0))

    optimizer.step(torch.ones(1))
    optimizer.learning_rate = 0.5
    optimizer.step(torch.ones(1))

    assert optimizer.learning_rate == 0.5
    assert optimizer.parameters.item() == -1.5


def test_flat_optimizer_load_of_another_models_state_is_refused() -> None:
    optimizer = FlatOptimizer(torch.zeros(4), OptimizerSpec(name="sgd"))

    with pytest.raises(CheckpointError, match="momentum_buffer"):
        optimizer.load({"momentum_buffer": torch.zeros(5)})
