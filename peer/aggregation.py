"""Combining gradients: pure tensor sums, in a fixed order, so that everyone gets the same bits.

Only `add`, `mul` and `div` touch the values, one after the other: a fused multiply-add (`alpha=`) or a sum
over a stacked tensor may round differently for another shape or another CPU path
(docs/decisions/learning-same-bits.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Summand(Protocol):
    """What can be folded into a mean: a gradient, or one that has not been decoded yet."""

    @property
    def buffers(self) -> Tensor:
        """As in `Gradient`."""

    @property
    def counters(self) -> Tensor:
        """As in `Gradient`."""

    @property
    def num_samples(self) -> int:
        """As in `Gradient`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """As in `Gradient`."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the values in order, and where each part of them belongs; they may be overwritten."""

    def decoded(self) -> "Gradient":
        """Return the whole gradient."""


@dataclass(frozen=True)
class Gradient:
    """The mean gradient of `num_samples` samples, with the buffers that the forward passes left behind.

    Shapes: `values` (P,) float32, `buffers` (B,) float32, `counters` (C,) int64.
    """

    values: Tensor
    buffers: Tensor
    counters: Tensor
    num_samples: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The lengths P, B and C."""
        return len(self.values), len(self.buffers), len(self.counters)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all values at once."""
        yield slice(None), self.values

    def decoded(self) -> "Gradient":
        """Return the gradient itself."""
        return self


class WeightedMean:
    """The running sample-weighted mean of gradients, folded from the left in the order of `add`.

    sum_i(n_i * g_i) / sum_i(n_i), as in FedAvg (arXiv 1602.05629, Alg. 1). Counters (BatchNorm's
    `num_batches_tracked`) take the maximum. Needs memory for one gradient, however many are added.
    """

    def __init__(self) -> None:
        self._sum: Gradient | None = None

    def add(self, gradient: Summand) -> None:
        """Fold one more gradient in. Its tensors now belong to this object, which overwrites them.

        Raises:
            ValueError: it has other shapes than those before; nothing of it was folded in.
            ObjectCorrupt: it cannot be decoded; the object is spent.
        """
        if self._sum is not None and gradient.shape != self._sum.shape:
            raise ValueError(f"gradients of {self._sum.shape} and {gradient.shape} elements do not add up")
        gradient.buffers.mul_(gradient.num_samples)
        if self._sum is None:
            self._sum = gradient.decoded()
            self._sum.values.mul_(gradient.num_samples)
            return
        for where, values in gradient.blocks():
            self._sum.values[where].add_(values.mul_(gradient.num_samples))
        self._sum.buffers.add_(gradient.buffers)
        self._sum = replace(
            self._sum,
            counters=torch.maximum(self._sum.counters, gradient.counters),
            num_samples=self._sum.num_samples + gradient.num_samples,
        )

    def result(self) -> Gradient:
        """Return the mean of what was added; the object is spent.

        Raises:
            ValueError: nothing was added.
        """
        total = self.total()
        samples = total.num_samples
        return Gradient(total.values.div_(samples), total.buffers.div_(samples), total.counters, samples)

    def total(self) -> Gradient:
        """Return the sum, sum_i(n_i * g_i), in place of the mean; raises as `result`."""
        if self._sum is None:
            raise ValueError("the mean of no gradients is not defined")
        return self._sum


class DampedMean:
    """The running mean of one round's gradients, of which some are stale, folded in the order of `add`.

    sum_i(d_i * n_i * g_i) / N with d_i = `damping`, and N the samples of a whole round: a gradient counts for
    as much as in a round in which nobody is late, less what damping takes of it, however many are beside it.
    Buffers, which are averages already, take sum_i(d_i * n_i * b_i) / sum_i(d_i * n_i), counters the maximum.
    Where all gradients are fresh and of one round, the bits are those of `WeightedMean`.
    """

    def __init__(self) -> None:
        self._sum = WeightedMean()
        self._weight = 0.0

    def add(self, summand: Summand, staleness: int) -> None:
        """Fold one more gradient in, which is `staleness` rounds late; see `WeightedMean.add`."""
        gradient, factor = summand.decoded(), damping(staleness)
        gradient.values.mul_(factor)
        gradient.buffers.mul_(factor)
        self._sum.add(gradient)
        self._weight += factor * gradient.num_samples

    def result(self, round_samples: int) -> Gradient:
        """Return the mean, of which a whole round would have `round_samples`; the object is spent.

        Raises:
            ValueError: nothing was added.
        """
        total = self._sum.total()
        values, buffers = total.values.div_(round_samples), total.buffers.div_(self._weight)
        return Gradient(values, buffers, total.counters, total.num_samples)


def damping(staleness: int) -> float:
    """Return the part of a gradient that counts if it is so many rounds late: 1 / (1 + staleness).

    Zhang et al., "Staleness-aware Async-SGD" (arXiv 1511.05950), divide the learning rate by the staleness;
    that a fresh one counts whole is FedAsync's form of it (arXiv 1903.03934, polynomial with a = 1).
    """
    return 1.0 / (1 + staleness)
