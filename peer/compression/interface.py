"""What every codec offers, and what all of them share: chunks, blocks, and which values they take."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt, TrainingDiverged

CHUNK_ELEMENTS = 4096
"""Codecs know no more than one chunk at a time, so gradients may be cut at multiples of this."""

BLOCK_CHUNKS = 128
"""Chunks that are worked on at once: 2 MiB of float32, few enough for a cache and enough for a kernel."""

LARGEST = torch.finfo(torch.bfloat16).max
"""The largest magnitude that every codec takes; float32 ends 0.4 % above it."""


class Codec(Protocol):
    """One codec. It has no state, and may be used by several threads."""

    @property
    def name(self) -> str:
        """Its canonical name, as `names.parse` reads it."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """The names of its tensors, in their order, and their dtypes; all of them are flat."""

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return the length of each of its tensors, for so many elements."""

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return the tensors that stand for `values`.

        Args:
            values: float32 of shape (P,), P >= 0, contiguous; not changed.
            noise: of these elements; its stream is used up. Codecs that round to the nearest leave it alone.

        Raises:
            TrainingDiverged: a value is not finite, or its magnitude is above `LARGEST`.
            TypeError: `values` are not float32.
        """

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """Return float32 of shape (P,) that `tensors` stand for; all of it is finite.

        Args:
            tensors: of `dtypes` and `lengths(num_elements)`; not changed.
            num_elements: P.

        Raises:
            ObjectCorrupt: `encode` returns no such tensors.
        """


def num_bytes(codec: Codec, num_elements: int) -> int:
    """Return how many bytes this codec makes of so many elements, headers left out."""
    return sum(length * codec.dtypes[name].itemsize for name, length in codec.lengths(num_elements).items())


def num_rows(num_elements: int, width: int) -> int:
    """Return how many rows of this width hold so many elements, the last one perhaps not full."""
    return -(-num_elements // width)


def blocks(values: Tensor, width: int = CHUNK_ELEMENTS) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of its first row, and rows of `values`, as many at once as a cache holds.

    Args:
        values: of shape (P,), P >= 0.
        width: elements of `values` in a row, which stand for one chunk.

    Yields:
        Views of shape (rows, width); the last row is a copy with zeros at its end, if P is no multiple.
    """
    full = len(values) // width
    rows = values[: full * width].view(full, width)
    for first in range(0, full, BLOCK_CHUNKS):
        yield first, rows[first : first + BLOCK_CHUNKS]
    rest = values[full * width :]
    if len(rest):
        yield full, functional.pad(rest, (0, width - len(rest))).view(1, width)


def check_float32(values: Tensor) -> None:
    """Return if a codec takes this tensor; raises TypeError otherwise."""
    if values.dtype != torch.float32 or values.dim() != 1:
        raise TypeError(f"codecs take flat float32, not {values.dtype} of shape {tuple(values.shape)}")


def checked_magnitudes(rows: Tensor) -> Tensor:
    """Return the largest magnitude of each row, of a gradient that is to be compressed.

    Raises:
        TrainingDiverged: it is NaN or above `LARGEST`.
    """
    magnitudes = torch.maximum(rows.amax(1), rows.amin(1).neg_())
    if not bool((magnitudes <= LARGEST).all()):
        worst = magnitudes.max().item()
        raise TrainingDiverged(
            f"the gradient has an element of {worst:g}, and what is compressed has to be finite and at most "
            f"{LARGEST:.3g}: lower the learning rate"
        )
    return magnitudes


def check_finite(values: Tensor) -> None:
    """Return if all of `values`, which somebody else has stored, are numbers.

    Raises:
        ObjectCorrupt: they are not.
    """
    # a finite sum has finite terms, and costs half of looking at each
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        raise ObjectCorrupt("compressed values are infinite, or not numbers")


def check_within(values: Tensor, largest: float) -> None:
    """Return if all of `values`, which somebody else has stored, are of at most this magnitude.

    Raises:
        ObjectCorrupt: they are not, or not numbers.
    """
    if values.numel() == 0:
        return
    low, high = (bound.item() for bound in values.aminmax())
    if not (-largest <= low and high <= largest):
        raise ObjectCorrupt(
            f"compressed values reach from {low:g} to {high:g}, at most {largest:.3g} is taken"
        )
