"""The largest elements of each chunk, and nothing of the others.

Chunks of 4,096 elements as in SparseLoCo (arXiv 2508.15706), so a gradient can be cut, every peer's is of
equal length, and no layer is left out because another has larger gradients. What is left out, or lost in
rounding, has to be added to the next gradient (error feedback, Stich et al., arXiv 1809.07599); that is the
caller's part.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from peer.compression.interface import (
    CHUNK_ELEMENTS,
    blocks,
    check_finite,
    check_float32,
    checked_magnitudes,
    num_rows,
)
from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt


class TopK:
    """`ratio` of each chunk's elements, at least one: position (int16, ascending) and value (bfloat16).

    Args:
        name: the codec's.
        ratio: above 0, at most 1.
    """

    dtypes: Mapping[str, torch.dtype] = {"gradient": torch.bfloat16, "positions": torch.int16}

    def __init__(self, name: str, ratio: float) -> None:
        self.name = name
        self._ratio = ratio

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return how many elements are kept, once for the values and once for the positions."""
        full, rest = divmod(num_elements, CHUNK_ELEMENTS)
        kept = full * self._kept(CHUNK_ELEMENTS) + self._kept(rest)
        return {"gradient": kept, "positions": kept}

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `Codec.encode`. Of equal magnitudes any may be kept."""
        check_float32(values)
        length = self.lengths(len(values))["gradient"]
        kept_values = torch.empty(length, dtype=torch.bfloat16)
        positions = torch.empty(length, dtype=torch.int16)
        stop = 0
        for first, rows in blocks(values):
            checked_magnitudes(rows)
            rows = rows[:, : len(values) - first * CHUNK_ELEMENTS]  # the zeros that fill up the last row
            num_kept = self._kept(rows.shape[1])
            chosen = largest_of(rows, num_kept)
            start, stop = stop, stop + chosen.numel()
            positions[start:stop] = chosen.view(-1)
            kept_values[start:stop] = rows.gather(1, chosen).view(-1)
        return {"gradient": kept_values, "positions": positions}

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """See `Codec.decode`."""
        decoded = torch.zeros(num_rows(num_elements, CHUNK_ELEMENTS), CHUNK_ELEMENTS)
        full, rest = divmod(num_elements, CHUNK_ELEMENTS)
        num_kept = self._kept(CHUNK_ELEMENTS)
        self._scatter(tensors, 0, num_kept, decoded[:full])
        self._scatter(tensors, full * num_kept, self._kept(rest), decoded[full:, :rest])
        return decoded.view(-1)[:num_elements]

    def _kept(self, num_elements: int) -> int:
        return min(num_elements, max(1, round(self._ratio * num_elements)))

    def _scatter(self, tensors: Mapping[str, Tensor], start: int, num_kept: int, rows: Tensor) -> None:
        """Fill in the elements of these rows, of which the first has its elements from `start` on."""
        if rows.numel() == 0:
            return
        stop = start + len(rows) * num_kept
        values = tensors["gradient"][start:stop].float().view(len(rows), num_kept)
        check_finite(values)
        positions = tensors["positions"][start:stop].view(len(rows), num_kept)
        rows.scatter_(1, checked_positions(positions, rows.shape[1]), values)


def largest_of(rows: Tensor, num_kept: int) -> Tensor:
    """Return where the largest magnitudes of each row are, ascending: int64 of shape (rows, num_kept)."""
    return rows.abs().topk(num_kept, dim=1, sorted=False).indices.sort(dim=1).values


def checked_positions(positions: Tensor, width: int) -> Tensor:
    """Return positions in rows of this width as an index; raises ObjectCorrupt if they cannot be some."""
    index = positions.long()
    is_inside = int(index.min()) >= 0 and int(index.max()) < width
    if not is_inside or not bool((index.diff(dim=1) > 0).all()):
        raise ObjectCorrupt("the positions of the largest elements are not ascending within their chunk")
    return index
