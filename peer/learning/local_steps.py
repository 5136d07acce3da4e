"""Some steps of an optimizer, one a batch, inside one invocation; their sum is what peers exchange.

K-AVG in KubeML's words, local SGD (arXiv 1805.09767), the inner loop of DiLoCo (arXiv 2311.08105). The rules
of `peer.learning.gradients` hold: one thread, losses summed over samples, each batch seeds torch by itself.
Other than there, a batch begins with the buffers that the one before has left.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from peer.errors import FunctionRefused, TrainingDiverged
from peer.learning.flat import FlatState, Layout
from peer.learning.gradients import GradientResult, LabelledBatch, Loss, Totals, backward, check_micro_batch
from peer.learning.optimizers import make_optimizer
from peer.messages import OptimizerSpec


def take_steps(
    model: nn.Module,
    layout: Layout,
    state: FlatState,
    batches: Iterable[LabelledBatch],
    *,
    optimizer: OptimizerSpec,
    loss: Loss,
    micro_batch: int,
    seed_of: Callable[[int], int],
) -> GradientResult:
    """Return how far one step a batch has moved the weights away from `state`, as if it were a gradient.

    A step of plain SGD with learning rate 1 along the result ends where the steps ended. Needs memory for
    the weights once more, and for the optimizer's state (AdamW: twice the weights).

    Args:
        model: as for `compute_gradient`.
        layout: the model's.
        state: the weights and buffers to begin with; not changed.
        batches: at least one, in the order of the steps.
        optimizer: begins without a state.
        loss: one of `gradients.LOSSES`; a step follows its mean over a batch.
        micro_batch: the most samples of one forward pass, 0 for whole batches.
        seed_of: as for `compute_gradient`.

    Raises:
        FunctionRefused, ConfigurationError: as `compute_gradient`.
        TrainingDiverged: a loss, or what the steps came to, is not finite.
    """
    check_micro_batch(model, micro_batch)
    layout.load(model, state)
    model.train()
    gradient = layout.bind_gradient(model)
    inner = make_optimizer(model.parameters(), optimizer)
    totals = Totals()
    try:
        with torch.random.fork_rng(devices=[]):
            for batch in batches:
                gradient.zero_()
                torch.default_generator.manual_seed(seed_of(batch.index))
                backward(model, batch, loss, micro_batch, totals)
                gradient.div_(len(batch.labels))
                inner.step()
    finally:
        layout.release_gradient(model, gradient)
    if not totals.num_samples:
        raise FunctionRefused("there is no batch to take a step with")
    end = layout.flatten(model)
    moved = state.parameters.sub(end.parameters)
    if layout.num_parameters and not all(math.isfinite(bound) for bound in torch.stack(moved.aminmax())):
        raise TrainingDiverged("the local steps do not end at finite weights: lower the learning rate")
    return GradientResult(moved, end.buffers, end.counters, totals.evaluation())
