"""A gradient cut into parts of about equal length, each a gradient of its own.

Parts begin at multiples of a codec's chunk: compressed one by one, they have the bytes of the whole.
"""

from collections.abc import Iterable

from torch import Tensor

from peer.aggregation import Gradient
from peer.compression.interface import CHUNK_ELEMENTS

PART_BYTES = 8 << 20
"""What a part has at most: it is folded while the next ones come, of which some are in memory."""


def parts_for(num_bytes: int) -> int:
    """Return in how many parts so many bytes travel."""
    return max(1, -(-num_bytes // PART_BYTES))


def cut(gradient: Gradient, num_parts: int) -> list[Gradient]:
    """Return views on consecutive parts of the gradient's tensors; equal shapes are cut alike everywhere.

    Args:
        gradient: its tensors are shared, not copied.
        num_parts: >= 1. The last parts of a short tensor are empty.
    """
    slices = [_slices(tensor, num_parts) for tensor in (gradient.values, gradient.buffers, gradient.counters)]
    return [
        Gradient(values, buffers, counters, gradient.num_samples)
        for values, buffers, counters in zip(*slices, strict=True)
    ]


def assemble(into: Gradient, num_parts: int, means: Iterable[Gradient]) -> Gradient:
    """Return the mean with these `num_parts` parts, in the memory of `into`, which they may be views of."""
    num_samples = 0
    for target, mean in zip(cut(into, num_parts), means, strict=True):
        target.values.copy_(mean.values)
        target.buffers.copy_(mean.buffers)
        target.counters.copy_(mean.counters)
        num_samples = mean.num_samples
    return Gradient(into.values, into.buffers, into.counters, num_samples)


def _slices(tensor: Tensor, num_parts: int) -> list[Tensor]:
    chunks = -(-len(tensor) // CHUNK_ELEMENTS)
    length = -(-chunks // num_parts) * CHUNK_ELEMENTS
    return [tensor[part * length : (part + 1) * length] for part in range(num_parts)]
