"""The oracle is plain PyTorch: standard memory layout, mean losses, nothing shared but the architecture."""

from collections.abc import Callable

import pytest
import torch
from plain_pytorch import LOSS, first_model, made_up_batches, model_without_dropout, relative_error
from torch import Tensor, nn
from torch.nn import functional

from peer.errors import ConfigurationError, FunctionRefused, TrainingDiverged
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import (
    GradientResult,
    LabelledBatch,
    batch_seed,
    check_micro_batch,
    compute_gradient,
    evaluate,
    loss_named,
)


def computed(
    model: nn.Module, state: FlatState, batches: list[LabelledBatch], micro_batch: int = 0, seed: int = 0
) -> GradientResult:
    return compute_gradient(
        model,
        Layout.of(model),
        state,
        batches,
        loss=LOSS,
        micro_batch=micro_batch,
        seed_of=lambda batch: batch_seed(seed, 0, 0, batch),
    )


def reference_gradient(name: str, batches: list[LabelledBatch]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return the mean gradient of one plain model, and the buffers that each batch leaves."""
    num_samples = sum(len(batch.labels) for batch in batches)
    total = None
    buffers = []
    for batch in batches:
        model = model_without_dropout(name).train()
        loss = functional.cross_entropy(model(batch.inputs.contiguous()), batch.labels)
        gradients = torch.autograd.grad(loss * len(batch.labels) / num_samples, list(model.parameters()))
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).double()
        total = flat if total is None else total + flat
        buffers.append({key: buffer.clone() for key, buffer in model.named_buffers()})
    assert total is not None
    return total.float(), buffers


# resnet18 is no oracle: in it, plain float32 and plain float64 differ by 4e-3 where a ReLU's sign turns
@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small"])
def test_compute_gradient_of_packed_batches_agrees_with_plain_pytorch(name: str) -> None:
    batches = made_up_batches(name, [24, 24, 10])
    model = model_without_dropout(name)
    state = Layout.of(model).flatten(model)

    result = computed(model.to(memory_format=torch.channels_last), state, batches)

    expected, _ = reference_gradient(name, batches)
    assert relative_error(result.gradient, expected) < 1e-4
    assert result.training.num_samples == 58


def test_compute_gradient_averages_buffers_by_samples_from_the_rounds_buffers() -> None:
    batches = made_up_batches("resnet18", [20, 6])
    model = first_model("resnet18")
    layout = Layout.of(model)
    state = layout.flatten(model)

    result = computed(model, state, batches)

    _, buffers = reference_gradient("resnet18", batches)
    found = layout.to_state_dict(FlatState(state.parameters, result.buffers, result.counters))
    for name, first in buffers[0].items():
        if name.endswith("num_batches_tracked"):
            assert found[name] == first == 1
        else:
            expected = (first * 20 + buffers[1][name] * 6) / 26
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small", "squeezenet1_1"])
def test_compute_gradient_again_has_the_same_bits_whatever_came_before(name: str) -> None:
    batches = made_up_batches(name, [16, 16])
    model = first_model(name)
    state = Layout.of(model).flatten(model)
    model = model.to(memory_format=torch.channels_last)

    first = computed(model, state, batches)
    computed(
        model, FlatState(state.parameters * 2, state.buffers + 1, state.counters + 9), batches[:1], seed=4
    )
    again = computed(model, state, batches)

    for key, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[key]), key
    assert first.training == again.training


def test_compute_gradient_dropout_depends_on_the_seed_of_its_batch_alone() -> None:
    batches = made_up_batches("squeezenet1_1", [8, 8])
    model = first_model("squeezenet1_1")
    state = Layout.of(model).flatten(model)
    torch.manual_seed(77)
    before = torch.get_rng_state()

    both, second, other_seed = (
        computed(model, state, batches),
        computed(model, state, batches[1:]),
        computed(model, state, batches, seed=1),
    )
    first = computed(model, state, batches[:1])

    assert torch.equal(torch.get_rng_state(), before)
    assert relative_error(both.gradient, (first.gradient + second.gradient) / 2) < 1e-5
    assert not torch.equal(both.gradient, other_seed.gradient)


def test_compute_gradient_in_micro_batches_is_the_same_to_float_error() -> None:
    batches = made_up_batches("cnn", [30, 7])
    model = first_model("cnn")
    state = Layout.of(model).flatten(model)

    whole, cut = computed(model, state, batches), computed(model, state, batches, micro_batch=8)

    assert relative_error(cut.gradient, whole.gradient) < 1e-5
    assert cut.training.num_samples == 37
    assert cut.training.num_correct == whole.training.num_correct


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: first_model("resnet18"), "bn1 .BatchNorm2d"),
        (lambda: first_model("squeezenet1_1"), "classifier.0 .Dropout"),
        (lambda: nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)), "InstanceNorm2d"),
    ],
)
def test_check_micro_batch_model_that_sees_the_whole_batch_is_refused(
    make: Callable[[], nn.Module], names: str
) -> None:
    with pytest.raises(FunctionRefused, match=names):
        check_micro_batch(make(), 8)


def test_check_micro_batch_inactive_dropout_is_allowed() -> None:
    check_micro_batch(first_model("squeezenet1_1", dropout=0), 8)


def test_compute_gradient_of_one_sample_under_batch_norm_is_refused() -> None:
    model = first_model("resnet18")
    state = Layout.of(model).flatten(model)

    with pytest.raises(FunctionRefused, match="leaves no single sample over"):
        computed(model, state, made_up_batches("resnet18", [1]))


def test_compute_gradient_of_nothing_is_refused() -> None:
    model = first_model("cnn")

    with pytest.raises(FunctionRefused, match="no batch"):
        computed(model, Layout.of(model).flatten(model), [])


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_compute_gradient_that_is_not_finite_is_refused(value: float) -> None:
    model = first_model("cnn")
    state = Layout.of(model).flatten(model)
    state.parameters[-1] = value
    state.parameters[:5000] = 1e20

    with pytest.raises(TrainingDiverged, match="not finite|loss is"):
        computed(model, state, made_up_batches("cnn", [4]))


def test_compute_gradient_parameter_outside_the_loss_counts_as_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(784, 10)
            self.idle = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs.flatten(1))

    model = Idle()

    result = computed(model, Layout.of(model).flatten(model), made_up_batches("cnn", [4]))

    assert torch.equal(result.gradient[-6:], torch.zeros(6))
    assert result.gradient[:-6].abs().max() > 0


def test_evaluate_counts_over_batches_as_plain_pytorch_does() -> None:
    batches = made_up_batches("cnn", [200, 77])
    model = first_model("cnn")
    layout = Layout.of(model)

    found = evaluate(model, layout, layout.flatten(model), batches, loss=LOSS)

    labels = torch.cat([batch.labels for batch in batches])
    with torch.no_grad():
        logits = first_model("cnn").eval()(torch.cat([batch.inputs.contiguous() for batch in batches]))
    assert found.num_samples == 277
    assert found.num_correct == int((logits.argmax(1) == labels).sum())
    assert found.loss_sum == pytest.approx(functional.cross_entropy(logits, labels).item() * 277, rel=1e-5)


def test_evaluate_changes_neither_buffers_nor_mode() -> None:
    model = first_model("resnet18")
    layout = Layout.of(model)
    state = layout.flatten(model)

    evaluate(model, layout, state, made_up_batches("resnet18", [4]), loss=LOSS)

    assert torch.equal(layout.flatten(model).buffers, state.buffers)
    assert model.training


def test_loss_named_unknown_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="choose cross_entropy"):
        loss_named("hinge")
