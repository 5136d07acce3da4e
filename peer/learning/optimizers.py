"""torch's optimizers on one flat parameter vector: one fused kernel a step, the same bits on every peer."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from peer.errors import CheckpointError
from peer.messages import OptimizerSpec


class FlatOptimizer:
    """Steps a flat parameter vector in place.

    Args:
        parameters: float32 of shape (P,), contiguous; every step changes it. The process must run torch on
            one thread (`peer.learning.threads`), else the vector is cut elsewhere and its last bits may
            differ between machines.
        spec: which optimizer.
    """

    def __init__(self, parameters: Tensor, spec: OptimizerSpec) -> None:
        self._parameter = nn.Parameter(parameters)
        self._optimizer = make_optimizer([self._parameter], spec, fused=True)

    @property
    def parameters(self) -> Tensor:
        """The vector that `step` changes, float32 of shape (P,)."""
        return self._parameter.detach()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer.param_groups[0]["lr"] = value

    def step(self, gradient: Tensor) -> None:
        """Take one step along `gradient`, float32 of shape (P,), which is neither kept nor changed."""
        self._parameter.grad = gradient
        self._optimizer.step()
        self._parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's own state by name, for a checkpoint; empty before the first step.

        The tensors are the optimizer's memory: write them out before the next step. The learning rate and the
        parameters are not among them.
        """
        return dict(self._optimizer.state[self._parameter])

    def moments(self) -> list[Tensor]:
        """Return what the optimizer remembers of each parameter, each float32 of shape (P,), ordered by name.

        They are its memory: who changes them changes its next step.
        """
        state = self.state_tensors()
        return [state[name] for name in sorted(state) if state[name].shape == self._parameter.shape]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state_tensors()`, which are copied: the next step has the bits it would have had.

        Raises:
            CheckpointError: a tensor does not have the parameters' shape; nothing was changed.
        """
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or tensor.shape not in (self._parameter.shape, torch.Size([])):
                raise CheckpointError(
                    f"optimizer state {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                    f"the model has {self._parameter.numel()} float32 parameters"
                )
        self._optimizer.state[self._parameter] = {name: tensor.clone() for name, tensor in tensors.items()}


def make_optimizer(
    parameters: Iterable[nn.Parameter], spec: OptimizerSpec, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return torch's optimizer of these parameters; fused only where all are contiguous."""
    if spec.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=spec.learning_rate,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
            foreach=False,
            fused=fused,
        )
    return torch.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        weight_decay=spec.weight_decay,
        foreach=False,
        fused=fused,
    )
