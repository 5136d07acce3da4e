"""The gradient of some batches at some weights, with the same bits wherever it is computed.

The rules (ARCHITECTURE.md): one thread; losses are summed over samples, and autograd adds batch after batch
into one buffer, in order, which is divided by the number of samples once at the end; each batch seeds torch
by itself; each batch starts from the round's buffers. So replicas, packing aside, can be one or many, near
or far.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from peer.errors import ConfigurationError, FunctionRefused, TrainingDiverged
from peer.learning.flat import FlatState, Layout
from peer.learning.seeds import derive_seed
from peer.messages import Evaluation

Loss = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="sum")


# each returns the sum over samples, so that batches and micro-batches add up
LOSSES: dict[str, Loss] = {"cross_entropy": _cross_entropy_sum}


@dataclass(frozen=True)
class LabelledBatch:
    """One batch, ready for a model.

    Attributes:
        index: seeds what is random in the batch; its number in its peer's stream.
        inputs: float32 of shape (N, C, H, W), N >= 1.
        labels: int64 of shape (N,).
    """

    index: int
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class GradientResult:
    """The mean gradient of some batches.

    Attributes:
        gradient: float32 of shape (P,), of the mean loss over all samples.
        buffers: float32 of shape (B,), the batches' buffers averaged by samples.
        counters: int64 of shape (C,), the largest of the batches'.
        training: sums over the samples, in training mode.
    """

    gradient: Tensor
    buffers: Tensor
    counters: Tensor
    training: Evaluation

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a gradient object, by name and in order."""
        return {"gradient": self.gradient, "buffers": self.buffers, "counters": self.counters}


def loss_named(name: str) -> Loss:
    """Return the loss of this name.

    Raises:
        ConfigurationError: there is none; the message has those that there are.
    """
    if name not in LOSSES:
        raise ConfigurationError(f"unknown loss {name[:80]!r}: choose {', '.join(LOSSES)}")
    return LOSSES[name]


def batch_seed(seed: int, round_number: int, peer: int, batch: int) -> int:
    """Return what torch is seeded with for one batch."""
    return derive_seed(seed, round_number, peer, batch)


def check_micro_batch(model: nn.Module, micro_batch: int) -> None:
    """Return if batches of this model may be cut into micro-batches of this many samples (0: not cut).

    Raises:
        FunctionRefused: the model computes something else from a part of a batch than from all of it.
    """
    if micro_batch < 0:
        raise FunctionRefused(
            f"micro_batch is {micro_batch}: take 0 for whole batches, or a number of samples"
        )
    if micro_batch and (layer := indivisible_layer(model)):
        raise FunctionRefused(
            f"batches of this model cannot be cut into micro-batches: {layer} depends on the whole batch; "
            "take a smaller batch or more memory"
        )


def indivisible_layer(model: nn.Module) -> str:
    """Return the first layer that computes something else from a part of a batch, empty if there is none."""
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        is_dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        if is_norm or is_dropout:
            return f"{name} ({type(module).__name__})"
    return ""


def compute_gradient(
    model: nn.Module,
    layout: Layout,
    state: FlatState,
    batches: Iterable[LabelledBatch],
    *,
    loss: Loss,
    micro_batch: int,
    seed_of: Callable[[int], int],
) -> GradientResult:
    """Return the mean gradient of `batches` at `state`.

    Args:
        model: of this layout, its 4-D parameters in any memory format; its weights and buffers are
            overwritten, and what it held before has no influence. Left without gradients.
        layout: the model's.
        state: this round's weights and buffers; not changed.
        batches: at least one, used one at a time.
        loss: one of `LOSSES`.
        micro_batch: the most samples of one forward pass, 0 for whole batches.
        seed_of: `batch_seed` of a batch's index. torch's own random state stays as it was.

    Raises:
        FunctionRefused: the model's batches cannot be cut, or BatchNorm meets a batch of one sample.
        ConfigurationError: the state is not of this layout, or the model does not return logits.
        TrainingDiverged: a loss or the gradient is not finite.
    """
    check_micro_batch(model, micro_batch)
    layout.load(model, state)
    # weights that the caller does not keep are freed here, before the gradients need the memory
    state = FlatState(torch.empty(0), state.buffers.clone(), state.counters.clone())
    model.train()
    gradient = layout.bind_gradient(model)
    buffers = torch.zeros(layout.num_buffers)
    counters = state.counters.clone()
    totals = Totals()
    try:
        with torch.random.fork_rng(devices=[]):
            for batch in batches:
                if totals.num_samples:
                    layout.load_buffers(model, state)
                torch.default_generator.manual_seed(seed_of(batch.index))
                backward(model, batch, loss, micro_batch, totals)
                batch_buffers, batch_counters = layout.flatten_buffers(model)
                buffers.add_(batch_buffers.mul_(len(batch.labels)))
                torch.maximum(counters, batch_counters, out=counters)
    finally:
        layout.release_gradient(model, gradient)
    if not totals.num_samples:
        raise FunctionRefused("there is no batch to compute a gradient of")
    gradient.div_(totals.num_samples)
    if layout.num_parameters and not all(math.isfinite(bound) for bound in torch.stack(gradient.aminmax())):
        raise TrainingDiverged("the gradient is not finite: lower the learning rate")
    return GradientResult(gradient, buffers.div_(totals.num_samples), counters, totals.evaluation())


def evaluate(
    model: nn.Module, layout: Layout, state: FlatState, batches: Iterable[LabelledBatch], *, loss: Loss
) -> Evaluation:
    """Return the sums of loss and correct predictions over `batches` at `state`, in evaluation mode.

    Args:
        model: as for `compute_gradient`.
        layout: the model's.
        state: the weights and buffers to judge; not changed.
        batches: used one at a time; how samples are cut into them hardly shows.
        loss: one of `LOSSES`.

    Raises:
        ConfigurationError: the state is not of this layout, or the model does not return logits.
        TrainingDiverged: a loss is not finite.
    """
    layout.load(model, state)
    model.eval()
    totals = Totals()
    try:
        with torch.inference_mode():
            for batch in batches:
                logits = _checked(model(batch.inputs), batch.labels)
                totals.add(logits, batch.labels, loss(logits, batch.labels))
    finally:
        model.train()
    return totals.evaluation()


class Totals:
    """Sums over samples; Python's float is double, so the order of batches hardly shows."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.num_correct = 0
        self.loss_sum = 0.0

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count some samples; raises TrainingDiverged if the sum of losses is not finite any more."""
        self.num_samples += len(labels)
        self.num_correct += int((logits.argmax(1) == labels).sum())
        self.loss_sum += loss.item()
        if not math.isfinite(self.loss_sum):
            raise TrainingDiverged(f"the loss is {loss.item()}: lower the learning rate")

    def evaluation(self) -> Evaluation:
        """Return the sums."""
        return Evaluation(num_samples=self.num_samples, num_correct=self.num_correct, loss_sum=self.loss_sum)


def backward(model: nn.Module, batch: LabelledBatch, loss: Loss, micro_batch: int, totals: Totals) -> None:
    """Add the gradient of a batch's summed loss to the model's, and its sums to `totals`."""
    size = micro_batch or len(batch.labels)
    for inputs, labels in zip(torch.split(batch.inputs, size), torch.split(batch.labels, size), strict=True):
        try:
            logits = model(inputs)
        except ValueError as error:
            # torch's "Expected more than 1 value per channel when training"
            raise FunctionRefused(
                f"a batch of {len(labels)} samples: {error}; "
                "choose a batch size that leaves no single sample over"
            ) from error
        total = loss(_checked(logits, labels), labels)
        totals.add(logits.detach(), labels, total.detach())
        total.backward()  # type: ignore[no-untyped-call]


def _checked(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ConfigurationError(
            f"the model turned {len(labels)} samples into {tuple(logits.shape)}, not (N, num_classes)"
        )
    return logits
