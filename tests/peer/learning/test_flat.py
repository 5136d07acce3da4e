import pytest
import torch
from torch import nn

from peer.errors import ConfigurationError
from peer.learning.flat import FlatState, Layout
from peer.learning.models import build
from peer.messages import ModelSpec


def test_layout_flatten_then_load_restores_every_tensor_in_any_memory_format() -> None:
    source = build(ModelSpec(name="resnet18"), 10)
    with torch.no_grad():
        for index, buffer in enumerate(source.buffers()):
            buffer.fill_(index)
    target = build(ModelSpec(name="resnet18"), 10).to(memory_format=torch.channels_last)
    layout = Layout.of(source)

    layout.load(target, layout.flatten(source))

    expected, found = source.state_dict(), target.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert target.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert Layout.of(target) == layout


def test_layout_to_state_dict_has_the_models_names_and_types() -> None:
    model = build(ModelSpec(name="mobilenet_v3_small"), 10)
    layout = Layout.of(model)

    exported = layout.to_state_dict(layout.flatten(model))

    expected = model.state_dict()
    assert set(exported) == set(expected)
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    assert all(exported[name].dtype == expected[name].dtype for name in expected)


def test_layout_bind_gradient_collects_in_standard_order_what_autograd_adds() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.Linear(1, 1)).to(
        memory_format=torch.channels_last
    )
    factors = torch.arange(24.0).view(3, 2, 2, 2)

    layout = Layout.of(model)
    flat = layout.bind_gradient(model)
    for _ in range(2):
        (model[0].weight * factors).sum().backward()
    layout.release_gradient(model, flat)

    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(flat, torch.cat([2 * torch.arange(24.0), torch.zeros(2)]))


def test_layout_bind_gradient_of_a_sliced_parameter_stays_in_its_slot() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(6, 4)[::2, ::2]), nn.Parameter(torch.ones(2))])
    layout = Layout.of(model)

    flat = layout.bind_gradient(model)
    model[0].sum().backward()
    layout.release_gradient(model, flat)

    assert flat.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("change", ["half", "double"])
def test_layout_of_model_that_is_not_float32_is_refused(change: str) -> None:
    model = getattr(nn.Linear(2, 2), change)()

    with pytest.raises(ConfigurationError, match=r"weight is torch\.float"):
        Layout.of(model)


def test_layout_of_frozen_parameter_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)

    with pytest.raises(ConfigurationError, match="bias does not require a gradient"):
        Layout.of(model)


def test_layout_of_double_buffer_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    with pytest.raises(ConfigurationError, match="buffer scale"):
        Layout.of(model)


def test_layout_load_state_of_another_model_is_refused_and_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    state = FlatState(torch.zeros(7), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    with pytest.raises(ConfigurationError, match="another model"):
        Layout.of(model).load(model, state)

    assert torch.equal(model.weight, before)


def test_flat_state_from_tensors_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not a weights object"):
        FlatState.from_tensors({"gradient": torch.zeros(3)})
